"""The encoder of a T5 model."""

from __future__ import annotations

import torch
from transformers import T5Config, T5EncoderModel

from pipeline.encoders.base import EncoderOutput, TextEncoder
from pipeline.encoders.checkpoints import Checkpoint
from pipeline.encoders.towers import TextTower, match_tensors
from pipeline.tokenizers import CaptionTokenizer
from schemas.errors import ConfigError
from schemas.identity import EncoderIdentity

_EMBEDDING = "embed_tokens.weight"


class T5(TextEncoder):
    """transformers' T5 encoder stack with SDPA attention."""

    def __init__(
        self, tower: TextTower, tokenizer: CaptionTokenizer, identity: EncoderIdentity, device: torch.device
    ) -> None:
        super().__init__(tokenizer, identity, device)
        self._stack = tower.module

    def _forward(self, token_ids: torch.Tensor, num_tokens: torch.Tensor) -> EncoderOutput:
        mask_BT = None
        if self.identity.attention_mask:
            mask_BT = (torch.arange(token_ids.shape[1], device=token_ids.device) < num_tokens[:, None]).long()
        hidden_BTD = self._stack(input_ids=token_ids, attention_mask=mask_BT).last_hidden_state
        return EncoderOutput(hidden=hidden_BTD, pooled=None, eos=None)


def t5_tower(checkpoint: Checkpoint) -> TextTower:
    """Describes and builds, without weights, the encoder of a T5 checkpoint; a decoder is not read.

    Raises:
        ConfigError: It is no T5, or its tensors do not fit its configuration.
    """
    config = _config(checkpoint)
    config._attn_implementation = "sdpa"  # its flex_attention is wrong for batches of more than one
    with torch.device("meta"):
        stack = T5EncoderModel(config).encoder
    return TextTower(
        module=stack,
        stored_names=match_tensors(stack.state_dict(), checkpoint.tensors, _spellings),
        architecture={
            "class": "T5EncoderModel",
            "layers": config.num_layers,
            "width": config.d_model,
            "heads": config.num_heads,
            "head_width": config.d_kv,
            "mlp_width": config.d_ff,
            "activation": config.feed_forward_proj,
            "norm_eps": config.layer_norm_epsilon,
            "vocab_size": config.vocab_size,
            "relative_buckets": config.relative_attention_num_buckets,
            "relative_max_distance": config.relative_attention_max_distance,
        },
        hidden_layer="last, final norm",
        hidden_size=config.d_model,
        pooled_size=None,
        max_positions=None,
        vocab_size=config.vocab_size,
    )


def _spellings(parameter: str) -> list[str]:
    return [f"encoder.{parameter}"] if parameter != _EMBEDDING else ["shared.weight", f"encoder.{_EMBEDDING}"]


def _config(checkpoint: Checkpoint) -> T5Config:
    model_type = checkpoint.config.get("model_type")
    try:
        if model_type == "t5":
            return T5Config.from_dict({**checkpoint.config, "use_cache": False})
        actual = f"model_type {model_type!r}"
    except Exception as error:  # transformers' validation raises errors of several libraries
        actual = f"{type(error).__name__}: {error}"
    raise ConfigError(
        "unexpected-architecture",
        where=f"{checkpoint.tree.where} {checkpoint.folder}".strip(),
        expected="the config.json of a T5 model (model_type t5)",
        actual=actual,
        remedy="name a T5 model, with or without its decoder",
    )
