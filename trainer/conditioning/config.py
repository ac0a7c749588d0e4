"""How captions condition the model while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schemas.errors import ConfigError


@dataclass(frozen=True)
class ConditioningConfig:
    """Encoder dropout, and what stands in for an encoder that is left out."""

    dropout: tuple[float, float, float] = (0.464, 0.464, 0.464)
    """Probability with which CLIP-L, CLIP-bigG and T5 are left out of a sample, each independently: 0.464 cubed leaves
    10 % of samples unconditional (Stable Diffusion 3, arXiv:2403.03206, section 5.3.1)."""

    left_out: Literal["zeros", "empty"] = "zeros"
    """What an encoder that is left out gives: zeros, as Stable Diffusion 3, or its output for the empty prompt (needs
    a prompts dataset)."""

    t5_tokens: int | None = None
    """T5 rows of the context, for datasets of real tokens only (padding none). Captions with more are cut. Default: as
    many as the dataset's captions may have."""

    def __post_init__(self) -> None:
        """Refuses what is no probability."""
        if any(not 0 <= probability <= 1 for probability in self.dropout):
            raise ConfigError(
                "option-out-of-range",
                where="--conditioning.dropout",
                expected="three probabilities from 0 to 1",
                actual=str(self.dropout),
                remedy="0 always keeps an encoder, 1 always leaves it out",
            )
