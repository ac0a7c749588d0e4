"""The three encoders with random weights: as transformers has them, as our engine runs them, and as files."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedModel, T5Config, T5EncoderModel

from benchmarks.encode.sizes import CLIP_TOKENS, T5_TOKENS, Size, Tower
from pipeline.encoders import TextEncoder
from pipeline.encoders.clip_huggingface import huggingface_clip
from pipeline.encoders.clip_tower import ClipTower
from pipeline.encoders.demo_vocabulary import demo_t5_tokenizer
from pipeline.encoders.demo_weights import clip_tokenizer
from pipeline.encoders.operations import Operations, TowerSizes, choose_operations
from pipeline.encoders.t5 import t5
from pipeline.encoders.t5_tower import T5Tower
from pipeline.tokenizers import CaptionTokenizer, HuggingFaceTokenizer
from schemas.identity import ENCODER_NAMES, ComputeDtype, EncoderIdentity, EncoderName, Padding

_CLIP_EOS = 49407
_ACTIVATIONS = {"clip_l": "quick_gelu", "clip_g": "gelu"}


@dataclass(frozen=True)
class Models:
    """The encoders as transformers has them, on one device, in one dtype, by name."""

    size: Size
    modules: dict[EncoderName, PreTrainedModel]
    device: torch.device
    dtype: torch.dtype

    def copied(self, dtype: torch.dtype) -> Models:
        """The same weights once more, in another dtype."""
        modules = {name: copy.deepcopy(module).to(dtype) for name, module in self.modules.items()}
        return Models(self.size, modules, self.device, dtype)

    def save(self, folder: Path) -> None:
        """A Hugging Face folder of each encoder with its tokenizer, named as the encoder."""
        for name, module in self.modules.items():
            module.save_pretrained(folder / name)
            (demo_t5_tokenizer() if name == "t5" else clip_tokenizer()).save_pretrained(folder / name)


def random_models(size: Size, device: torch.device, dtype: torch.dtype) -> Models:
    """Encoders with transformers' initial weights, made on the device and in the dtype."""
    torch.manual_seed(0)
    with _made(device, dtype):
        modules: dict[EncoderName, PreTrainedModel] = {
            name: T5EncoderModel(_t5_config(size.towers[name]))
            if name == "t5"
            else CLIPTextModelWithProjection(_clip_config(size.towers[name], _ACTIVATIONS[name]))
            for name in ENCODER_NAMES
        }
    for module in modules.values():
        module.eval().requires_grad_(False)
    return Models(size, modules, device, dtype)


class OurEncoders:
    """The towers that our engine runs, with the weights of `models`.

    Args:
        models: Whose weights they have.
        take_over: Use up the models, which cannot run any more, instead of copying their weights.

    Attributes:
        size: As the models'.
        dtype: As the models'.
    """

    def __init__(self, models: Models, *, take_over: bool = False) -> None:
        self.size = models.size
        self.dtype = models.dtype
        self._device = models.device
        self._towers: dict[EncoderName, ClipTower | T5Tower] = {}
        for name, module in models.modules.items():
            # What makes a tower takes the module apart.
            mine = module if take_over else copy.deepcopy(module)
            is_t5 = isinstance(mine, T5EncoderModel)
            operations = self._operations(name)
            self._towers[name] = (
                t5(mine.encoder, T5_TOKENS, operations=operations, in_float8=False)
                if is_t5
                else huggingface_clip(mine, operations)
            )

    def encoders(self, padding: Padding, t5_tokens: int) -> dict[str, TextEncoder]:
        """The three of them under a padding policy; all policies share weights and operations."""
        found: dict[str, TextEncoder] = {}
        for name in ENCODER_NAMES:
            tokenizer = caption_tokenizer(name, t5_tokens if name == "t5" else CLIP_TOKENS)
            identity = self._identity(name, tokenizer, padding)
            found[name] = TextEncoder(self._towers[name], tokenizer, identity, self._device, eos_id=tokenizer.eos_id)
        return found

    def _operations(self, name: EncoderName) -> Operations:
        tower = self.size.towers[name]
        sizes = TowerSizes(
            width=tower.width,
            mlp_width=tower.inner,
            heads=tower.heads,
            channels=tower.head_width,
            max_tokens=T5_TOKENS if name == "t5" else CLIP_TOKENS,
            padding="none",
            is_causal=name != "t5",
        )
        return choose_operations(sizes, dtype=self.dtype, device=self._device, in_float8=False)

    def _identity(self, name: EncoderName, tokenizer: CaptionTokenizer, padding: Padding) -> EncoderIdentity:
        tower = self.size.towers[name]
        compute: ComputeDtype = "float32" if self.dtype == torch.float32 else "bfloat16"
        return EncoderIdentity(
            name=name,
            source="benchmark",
            revision=None,
            weights_sha256="0" * 64,
            tokenizer=tokenizer.library,
            tokenizer_sha256=tokenizer.digest,
            exclamation_as_pad=False,
            architecture={"layers": tower.layers, "heads": tower.heads, "head_width": tower.head_width},
            hidden_layer="last, final norm" if name == "t5" else "penultimate, no final norm",
            hidden_size=tower.width,
            pooled_size=None if name == "t5" else tower.width,
            max_tokens=tokenizer.max_tokens,
            pad_token_id=tokenizer.pad_id,
            eos_token_id=tokenizer.eos_id,
            padding=padding,
            attention_mask=padding == "none",
            compute_dtype=compute,
            storage_dtype="bfloat16",
        )


def caption_tokenizer(name: EncoderName, max_tokens: int) -> CaptionTokenizer:
    """Ours: the real one of the CLIPs, the demo's of T5."""
    tokenizer = demo_t5_tokenizer() if name == "t5" else clip_tokenizer()
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    pad_id = _CLIP_EOS if name == "clip_l" else 0
    return HuggingFaceTokenizer(backend, max_tokens=max_tokens, pad_id=pad_id, eos_id=tokenizer.eos_token_id)


@contextmanager
def _made(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _clip_config(tower: Tower, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=tower.vocabulary,
        hidden_size=tower.width,
        intermediate_size=tower.inner,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        projection_dim=tower.width,
        max_position_embeddings=CLIP_TOKENS,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=_CLIP_EOS,
        architectures=["CLIPTextModelWithProjection"],
    )


def _t5_config(tower: Tower) -> T5Config:
    return T5Config(
        vocab_size=tower.vocabulary,
        d_model=tower.width,
        d_kv=tower.head_width,
        d_ff=tower.inner,
        num_layers=tower.layers,
        num_heads=tower.heads,
        feed_forward_proj="gated-gelu",
        use_cache=False,
        is_encoder_decoder=False,
        architectures=["T5EncoderModel"],
    )
