"""Where each encoder's output stands in the model's context.

Stable Diffusion 3 joins the two CLIPs along channels, pads them with zero channels to T5's width, and puts T5 behind
them along tokens; the pooled vectors of the CLIPs are joined (arXiv:2403.03206, section 4; diffusers'
`StableDiffusion3Pipeline.encode_prompt`):

    prompt_embeds          tokens 0 .. 77        [ clip_l 768 | clip_g 1280 | zeros 2048 ]
                           tokens 77 .. 77 + T   [ t5 4096                               ]
    pooled_prompt_embeds                         [ clip_l 768 | clip_g 1280 ]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import ConfigError, ContractError
from schemas.identity import CaptionIdentity, EncoderIdentity


@dataclass(frozen=True)
class Slot:
    """One encoder's place.

    Attributes:
        token: First token in the context.
        num_tokens: Tokens that belong to the encoder; fewer may be stored, the rest is zero.
        channel: First channel.
        hidden_size: Channels.
        pooled_channel: First channel in the pooled vector; unused for T5.
        pooled_size: Channels in the pooled vector; 0 for T5.
    """

    token: int
    num_tokens: int
    channel: int
    hidden_size: int
    pooled_channel: int
    pooled_size: int


@dataclass(frozen=True)
class ContextLayout:
    """Shapes of the assembled conditioning.

    Attributes:
        slots: By encoder: "clip_l", "clip_g", "t5".
        num_tokens: Tokens of the context: 154 for 77/77/77, 333 with T5 at 256.
        width: Channels of the context: T5's, 4096.
        pooled_width: Channels of the pooled vector: both CLIPs', 2048.
        storage_dtype: In which all three encoders are stored.
    """

    slots: Mapping[str, Slot]
    num_tokens: int
    width: int
    pooled_width: int
    storage_dtype: str


def context_layout(identity: CaptionIdentity, t5_tokens: int | None = None) -> ContextLayout:
    """The layout for a dataset's encoders.

    Args:
        identity: The dataset's.
        t5_tokens: T5 tokens of the context; only for padding "none". Default: `max_tokens` of T5.

    Raises:
        ConfigError: `t5_tokens` cannot be used with this dataset.
        ContractError: The encoders do not fit together.
    """
    clip_l, clip_g, t5 = identity.clip_l, identity.clip_g, identity.t5
    if t5_tokens is not None and t5_tokens != t5.max_tokens and (t5.padding != "none" or t5_tokens < 1):
        raise ConfigError(
            "t5-tokens-fixed",
            where="--conditioning.t5-tokens",
            expected=f"{t5.max_tokens}, the length that T5 was padded to" if t5_tokens > 0 else "a number above 0",
            actual=str(t5_tokens),
            remedy="leave the option out: under padding max_length T5's values depend on the length",
        )
    if clip_l.hidden_size + clip_g.hidden_size > t5.hidden_size or len({e.storage_dtype for e in _all(identity)}) > 1:
        raise ContractError(
            "encoders-do-not-fit",
            where="the dataset's manifest.json",
            expected="CLIPs that are together no wider than T5, and one storage dtype",
            actual=", ".join(f"{e.name} {e.hidden_size} {e.storage_dtype}" for e in _all(identity)),
            remedy="use encoders whose outputs Stable Diffusion 3's context can hold",
        )
    clip_tokens = max(clip_l.max_tokens, clip_g.max_tokens)
    l_pooled, g_pooled = clip_l.pooled_size or 0, clip_g.pooled_size or 0
    t5_rows = t5_tokens or t5.max_tokens
    slots = {
        "clip_l": Slot(0, clip_l.max_tokens, 0, clip_l.hidden_size, 0, l_pooled),
        "clip_g": Slot(0, clip_g.max_tokens, clip_l.hidden_size, clip_g.hidden_size, l_pooled, g_pooled),
        "t5": Slot(clip_tokens, t5_rows, 0, t5.hidden_size, 0, 0),
    }
    return ContextLayout(slots, clip_tokens + t5_rows, t5.hidden_size, l_pooled + g_pooled, t5.storage_dtype)


def _all(identity: CaptionIdentity) -> tuple[EncoderIdentity, ...]:
    return (identity.clip_l, identity.clip_g, identity.t5)
