"""Two tensors of one caption: how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from schemas.row import EncodedCaption

FieldName = Literal["hidden", "pooled", "eos"]
Tensor = npt.NDArray[np.generic]
Tensors = Mapping[FieldName, Tensor]
"""hidden [T, D], pooled [P] and eos [D], as far as an encoder has them."""


@dataclass(frozen=True)
class Figures:
    """How far a stored tensor is from the expected one.

    Attributes:
        cosine: Of the angle between stored and expected values, token by token; of these the smallest. For a vector
            the only one. A few wrong tokens, which a whole tensor hides, show here.
        worst_token: The token it is of, from 0.
        whole_cosine: Of the tensor, all of its values taken as one vector. Tokens with large values decide it.
        relative_error: L2 norm of the difference over L2 norm of the expected, of the whole tensor. Infinite where
            stored values are not finite.
    """

    cosine: float
    worst_token: int
    whole_cosine: float
    relative_error: float

    def is_within(self, min_cosine: float) -> bool:
        """Whether the tensor is near enough.

        Its cosine is what decides. But cosines are blind to lengths, and so to a missing norm or a scale: the relative
        error may be at most twice of what an error that turns every token by that angle has, sqrt(2 - 2 cosine).
        """
        return self.cosine >= min_cosine and self.relative_error <= 2 * math.sqrt(max(0.0, 2 - 2 * min_cosine))

    def is_rounding_like(self, usual: Figures) -> bool:
        """Whether these are about the figures that rounding leaves.

        Args:
            usual: Of values computed in the dtype in question. The worst token of one computation need not be as bad
                in another, so that its cosine has more room than the whole tensor's error.
        """
        return self.relative_error <= 1.25 * usual.relative_error and 1 - self.cosine <= 2 * (1 - usual.cosine)


def tensors_of(encoded: EncodedCaption) -> Tensors:
    """The tensors there are."""
    found: dict[FieldName, Tensor] = {"hidden": encoded.hidden}
    if encoded.pooled is not None and encoded.eos is not None:
        found |= {"pooled": encoded.pooled, "eos": encoded.eos}
    return found


def compare(stored: Tensor, expected: Tensor) -> Figures:
    """Compares two tensors of one width.

    Args:
        stored: [T, D] or [D], any float.
        expected: The same, any number of tokens; the one with fewer tokens counts as filled up with zeros.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        left, right = np.atleast_2d(stored).astype(np.float64), np.atleast_2d(expected).astype(np.float64)
        num_tokens = max(len(left), len(right))
        left, right = _filled(left, num_tokens), _filled(right, num_tokens)
        cosines = _cosines((left * right).sum(1), np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1))
        whole = _cosines(*(np.array([value]) for value in (left.ravel() @ right.ravel(), *map(_length, (left, right)))))
        error = float(_length(left - right) / max(_length(right), np.finfo(np.float64).tiny))
    worst = int(cosines.argmin())
    return Figures(float(cosines[worst]), worst, float(whole[0]), error if math.isfinite(error) else math.inf)


def _length(values: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(values))


def _cosines(products: npt.NDArray[np.float64], *norms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Two zero vectors are alike; one, or what is not finite, is like nothing."""
    length = norms[0] * norms[1]
    cosines = np.divide(products, length, out=np.zeros_like(products), where=length > 0)
    cosines[(norms[0] == 0) & (norms[1] == 0)] = 1.0
    return np.nan_to_num(cosines, nan=0.0).clip(-1, 1)


def _filled(tokens: npt.NDArray[np.float64], num_tokens: int) -> npt.NDArray[np.float64]:
    return np.pad(tokens, ((0, num_tokens - len(tokens)), (0, 0)))
