"""Small random-weight encoders of the three real architectures, for demos and tests; never for training.

They have the depth of a toy and an eighth of the real widths, but real checkpoint layouts, real vocabularies for the
CLIPs, and both families of loaders: CLIP-L and T5 are Hugging Face folders, CLIP-G is an open_clip one. The weights
come from a counter-based generator and exact arithmetic, so that they are the same bits on every machine; the identity
of a demo dataset is therefore the same everywhere, too.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel

from pipeline.encoders.demo_vocabulary import demo_t5_tokenizer
from schemas.identity import EncoderName

# Part of the folder's name: raise it whenever the files would change.
_VERSION = 1
_SEEDS: dict[EncoderName, int] = {"clip_l": 11, "clip_g": 12, "t5": 13}
_POSITIONS = 77


def demo_encoder_folder(name: EncoderName) -> Path:
    """Folder of a demo encoder, written on first use to the user's cache (XDG_CACHE_HOME or ~/.cache).

    Safe with many processes at once: each writes a folder of its own, and the first to rename it into place wins.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "encode-once" / f"demo-encoders-{_VERSION}" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        _WRITERS[name](draft)
        draft.chmod(0o755)
        draft.rename(folder)
    except OSError:
        # A folder that is not empty cannot be replaced: another process was first, with the same bytes.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """OpenAI's CLIP tokenizer with its 49,408 real ids, built from the byte-pair file open_clip ships."""
    simple = SimpleTokenizer()
    vocab = dict(simple.encoder)
    vocab["<|startoftext|>"] = vocab.pop("<start_of_text>")
    vocab["<|endoftext|>"] = vocab.pop("<end_of_text>")
    return CLIPTokenizer(vocab=vocab, merges=list(simple.bpe_ranks), pad_token=pad_token, model_max_length=_POSITIONS)


def _write_clip_l(folder: Path) -> None:
    config = CLIPTextConfig(
        hidden_size=96,
        intermediate_size=384,
        num_attention_heads=6,
        num_hidden_layers=4,
        projection_dim=96,
        hidden_act="quick_gelu",
        architectures=["CLIPTextModelWithProjection"],
    )
    with torch.device("meta"):
        shapes = CLIPTextModelWithProjection(config).state_dict()
    _save(folder / "model.safetensors", _random_weights(shapes, _SEEDS["clip_l"], _clip_std))
    config.save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)


def _write_clip_g(folder: Path) -> None:
    text_cfg = {"context_length": _POSITIONS, "vocab_size": 49408, "width": 160, "heads": 10, "layers": 4}
    with torch.device("meta"):
        shapes = TextTransformer(**text_cfg, output_dim=160).state_dict()
    _save(folder / "open_clip_model.safetensors", _random_weights(shapes, _SEEDS["clip_g"], _clip_std))
    content = {"model_cfg": {"embed_dim": 160, "text_cfg": text_cfg}}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def _write_t5(folder: Path) -> None:
    tokenizer = demo_t5_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=512,
        d_kv=64,
        d_ff=1280,
        num_heads=8,
        num_layers=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        architectures=["T5EncoderModel"],
    )
    with torch.device("meta"):
        shapes = T5EncoderModel(config).state_dict()
    shapes.pop("encoder.embed_tokens.weight")  # the same tensor as shared.weight
    _save(folder / "model.safetensors", _random_weights(shapes, _SEEDS["t5"], _t5_std))
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


_WRITERS: dict[EncoderName, Callable[[Path], None]] = {
    "clip_l": _write_clip_l,
    "clip_g": _write_clip_g,
    "t5": _write_t5,
}


def _random_weights(
    shapes: dict[str, torch.Tensor], seed: int, std_of: Callable[[str, torch.Size], float]
) -> dict[str, torch.Tensor]:
    """float32 tensors, uniform around 0, or around 1 for the weights of norms."""
    weights = {}
    for number, (name, like) in enumerate(sorted(shapes.items())):
        # The raw stream of a counter-based generator never changes between versions or machines; normal deviates do.
        raw = np.random.Philox(key=[seed, number]).random_raw(math.ceil(like.numel() / 4))
        steps = raw.astype("<u8").view("<u2")[: like.numel()].astype(np.float32) - np.float32(32767.5)
        values = steps * np.float32(std_of(name, like.shape) * math.sqrt(12) / 65536)
        if _is_norm(name):
            values += np.float32(1)
        weights[name] = torch.from_numpy(values.reshape(tuple(like.shape)))
    return weights


def _is_norm(name: str) -> bool:
    return name.endswith("weight") and any(part in name for part in ("layer_norm", "ln_1", "ln_2", "ln_final"))


def _clip_std(name: str, shape: torch.Size) -> float:
    if len(shape) == 1:
        return 0.1
    if "embedding" in name:
        return 0.3 if "position" in name else 1.0
    return float(shape[-1]) ** -0.5


def _t5_std(name: str, shape: torch.Size) -> float:
    if len(shape) == 1:
        return 0.1
    if "relative_attention_bias" in name or name == "shared.weight":
        return 1.0
    # T5 does not scale its attention scores: the query weights carry the factor.
    scale = 64**-0.5 if "SelfAttention.q." in name else 1.0
    return scale * float(shape[-1]) ** -0.5


def _save(path: Path, weights: dict[str, torch.Tensor]) -> None:
    metadata: dict[str, Any] = {"format": "pt"}
    save_file(weights, path, metadata=metadata)
    with path.open("rb") as file:
        os.fsync(file.fileno())
