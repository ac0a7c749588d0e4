"""CLIP text towers in open_clip's layout."""

from __future__ import annotations

import re
from typing import Any

import torch
from open_clip import get_model_config
from open_clip.transformer import LayerNorm, QuickGELU, TextTransformer
from torch import nn

from pipeline.encoders.checkpoints import Checkpoint
from pipeline.encoders.clip_tower import ClipLayer, ClipTower
from pipeline.encoders.config import option
from pipeline.encoders.linear import linear
from pipeline.encoders.operations import Operations
from pipeline.encoders.tensor_files import TensorFiles
from pipeline.encoders.towers import TextTower, match_tensors
from schemas.errors import ConfigError
from schemas.identity import EncoderName

# Architectures a file without a configuration is compared with, by encoder.
_USUAL_MODELS: dict[EncoderName, str] = {"clip_l": "ViT-L-14-quickgelu", "clip_g": "ViT-bigG-14"}
_HEAD_WIDTH = 64  # of every CLIP text tower that was published
_SIZES = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio")
# Accepted beside the sizes: what says nothing, or only what CLIP has anyway.
_FIXED: dict[str, tuple[object, ...]] = {
    "pool_type": ("argmax",),
    "proj_type": ("linear",),
    "proj_bias": (False,),
    "no_causal_mask": (False,),
    "embed_cls": (False,),
    "output_tokens": (False, True),
    "ls_init_value": (None,),
    "norm_kwargs": (None,),
    "act_kwargs": (None,),
    "hf_tokenizer_name": (None, ""),
    "final_ln_after_pool": (False,),
}


def open_clip(module: nn.Module, operations: Operations) -> ClipTower:
    """The tower of open_clip's `TextTransformer` that has its weights; takes them over."""
    assert isinstance(module, TextTransformer)
    assert isinstance(module.text_projection, nn.Parameter)
    layers = [
        ClipLayer(
            block.ln_1,
            linear(block.attn.in_proj_weight, block.attn.in_proj_bias),
            block.attn.out_proj,
            block.ln_2,
            block.mlp.c_fc,
            block.mlp.c_proj,
            block.attn.num_heads,
            operations.quick_gelu if isinstance(block.mlp.gelu, QuickGELU) else block.mlp.gelu,
            operations,
        )
        for block in module.transformer.resblocks
    ]
    return ClipTower(
        module.token_embedding.weight,
        module.positional_embedding,
        layers,
        module.ln_final,
        module.text_projection,
        operations,
    )


def open_clip_tower(name: EncoderName, checkpoint: Checkpoint, open_clip_model: str | None) -> TextTower:
    """Describes and builds, without weights, the text tower of an open_clip checkpoint.

    Raises:
        ConfigError: The architecture is unknown, not CLIP's, or does not fit the tensors.
    """
    model_config = _model_config(name, checkpoint, open_clip_model)
    sizes, clean = _checked_sizes(checkpoint, model_config["text_cfg"])
    quick_gelu = bool(model_config.get("quick_gelu", False))
    with torch.device("meta"):
        module = TextTransformer(
            **sizes,
            output_dim=model_config["embed_dim"],
            act_layer=QuickGELU if quick_gelu else nn.GELU,
            norm_layer=LayerNorm,
        )
    return TextTower(
        module=module,
        stored_names=match_tensors(module.state_dict(), checkpoint.tensors, _spellings),
        architecture={
            "class": "open_clip.TextTransformer",
            "layers": sizes["layers"],
            "width": sizes["width"],
            "heads": sizes["heads"],
            "mlp_width": int(sizes["width"] * sizes["mlp_ratio"]),
            "activation": "quick_gelu" if quick_gelu else "gelu",
            "norm_eps": module.ln_final.eps,
            "vocab_size": sizes["vocab_size"],
            "positions": sizes["context_length"],
            "projection": model_config["embed_dim"],
        },
        hidden_layer="penultimate, no final norm",
        hidden_size=sizes["width"],
        pooled_size=model_config["embed_dim"],
        max_positions=sizes["context_length"],
        vocab_size=sizes["vocab_size"],
        tokenizer_clean=clean,
    )


def _spellings(parameter: str) -> list[str]:
    return [parameter, f"text.{parameter}"]


def _model_config(name: EncoderName, checkpoint: Checkpoint, open_clip_model: str | None) -> dict[str, Any]:
    """open_clip's model configuration: given by name, beside the weights, or told from the tensors."""
    if open_clip_model is not None:
        named = get_model_config(open_clip_model)
        if named is None:
            raise ConfigError(
                "open-clip-model-unknown",
                where=option(name, "open_clip_model"),
                expected="a model name of the installed open_clip, such as ViT-bigG-14",
                actual=open_clip_model,
                remedy="see open_clip.list_models()",
            )
        return named
    if not checkpoint.config:
        return _config_of_tensors(name, checkpoint.tensors)
    found = checkpoint.config.get("model_cfg", checkpoint.config)
    if not isinstance(found, dict) or not isinstance(found.get("text_cfg"), dict) or "embed_dim" not in found:
        raise _unexpected(checkpoint, f"no embed_dim and text_cfg in its configuration, only {sorted(found)}")
    return found


def _config_of_tensors(name: EncoderName, tensors: TensorFiles) -> dict[str, Any]:
    """The architecture of a bare file. Heads and activation leave no trace in the tensors: they are CLIP's usual."""
    usual = get_model_config(_USUAL_MODELS[name])
    prefix = "text." if "text.token_embedding.weight" in tensors.names else ""
    needed = [f"{prefix}{tail}" for tail in ("token_embedding.weight", "positional_embedding", "text_projection")]
    blocks = re.compile(re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
    layers = {int(match[1]) for stored in tensors.names if (match := blocks.match(stored))}
    if not tensors.names.issuperset(needed) or not layers:
        raise _unknown(name, tensors, "tensors of an open_clip text tower", f"without {needed} and resblocks")
    vocab_size, width = tensors.shape(needed[0])
    sizes = {
        "context_length": tensors.shape(needed[1])[0],
        "vocab_size": vocab_size,
        "width": width,
        "layers": max(layers) + 1,
    }
    if width % _HEAD_WIDTH:
        raise _unknown(name, tensors, f"a width that is a multiple of {_HEAD_WIDTH}", f"width {width}")
    found = {"embed_dim": tensors.shape(needed[2])[1], "text_cfg": {**sizes, "heads": width // _HEAD_WIDTH}}
    return {**found, "quick_gelu": usual.get("quick_gelu", False)}


def _checked_sizes(checkpoint: Checkpoint, text_cfg: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Sizes for `TextTransformer` and the tokenizer's cleaning rules; refuses what CLIP's text tower does not have."""
    defaults: dict[str, Any] = {"context_length": 77, "vocab_size": 49408, "mlp_ratio": 4.0}
    tokenizer = dict(text_cfg.get("tokenizer_kwargs") or {})
    clean = tokenizer.pop("clean", "lower")
    strange = {key: value for key, value in text_cfg.items() if value not in _FIXED.get(key, (value,))}
    known = {"tokenizer_kwargs", "pad_id", "eos_id", *_SIZES, *_FIXED}
    strange |= {key: value for key, value in text_cfg.items() if key not in known and value not in (None, False)}
    sizes = {**defaults, **{key: text_cfg[key] for key in _SIZES if key in text_cfg}}
    missing = [key for key in _SIZES if key not in sizes]
    if strange or tokenizer or missing or sizes["layers"] < 2:
        raise _unexpected(checkpoint, f"text_cfg {text_cfg}")
    return sizes, clean


def _unexpected(checkpoint: Checkpoint, actual: str) -> ConfigError:
    return ConfigError(
        "unexpected-architecture",
        where=f"{checkpoint.tree.where} {checkpoint.folder}".strip(),
        expected="an open_clip configuration of a CLIP text tower: causal, at least 2 layers, pooled at EOS, projected",
        actual=actual,
        remedy="name a CLIP text encoder",
    )


def _unknown(name: EncoderName, tensors: TensorFiles, expected: str, actual: str) -> ConfigError:
    return ConfigError(
        "architecture-unknown",
        where=tensors.where,
        expected=expected,
        actual=actual,
        remedy=f"put open_clip_config.json beside the file, or name the model by {option(name, 'open_clip_model')}",
    )
