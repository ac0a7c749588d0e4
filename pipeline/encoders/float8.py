"""Linear layers in float8: half of bfloat16's memory, and up to twice its speed on GPUs from Hopper on.

Weights are scaled output by output and inputs token by token, so that the largest value of each is float8's largest
(e4m3, 448), and products are added up in float32. Which layers: T5's, where nine tenths of all the work is. What it
costs in accuracy, `python -m pipeline verify` tells.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pipeline.encoders.operations import Operations
from schemas.errors import ConfigError

_ADA = (8, 9)
_STEP = 16
"""What the widths of a float8 product must be multiples of."""


class Float8Linear(nn.Module):
    """A linear layer without a bias.

    Args:
        weight: [out, in], bfloat16; see `require_float8_sizes`.
        operations: Implementations.
    """

    def __init__(self, weight: torch.Tensor, operations: Operations) -> None:
        super().__init__()
        self._quantize_rows = operations.quantize_rows
        self.weight, scale_O1 = self._quantize_rows(weight.contiguous())
        self._scale_1O = scale_O1.t().contiguous()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[N, in] to [N, out], both bfloat16."""
        quantized, scale_N1 = self._quantize_rows(inputs)
        # Columns of the second factor must lie in memory as rows do. Fast accumulation keeps partial sums in the tensor
        # cores' own registers, with fewer bits than float32: that error is below the one of rounding to float8.
        return torch._scaled_mm(
            quantized,
            self.weight.t(),
            scale_a=scale_N1,
            scale_b=self._scale_1O,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )


def require_float8(device: torch.device, widths: Mapping[str, int]) -> None:
    """Refuses a device that has no products of float8, and a model whose products have no float8 kernels.

    Args:
        device: Of the model.
        widths: Of all inputs and outputs of its linear layers, by name.

    Raises:
        ConfigError: Code `float8-unsupported`.
    """
    odd = {name: width for name, width in widths.items() if width % _STEP}
    if odd:
        raise ConfigError(
            "float8-unsupported",
            where="--compute-dtype float8",
            expected=f"widths that are multiples of {_STEP}, as products in float8 need them",
            actual=", ".join(f"{name} {width}" for name, width in odd.items()),
            remedy="use --compute-dtype bfloat16",
        )
    if device.type == "cpu" or torch.cuda.get_device_capability(device) >= _ADA:
        return
    raise ConfigError(
        "float8-unsupported",
        where="--compute-dtype float8",
        expected="a GPU with products of float8: Ada, Hopper or later",
        actual=torch.cuda.get_device_name(device),
        remedy="use --compute-dtype bfloat16",
    )
