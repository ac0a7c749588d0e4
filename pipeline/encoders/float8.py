"""Linear layers in float8: half of bfloat16's memory, and up to twice its speed on GPUs from Hopper on.

Weights are scaled output by output and inputs token by token, so that the largest value of each is float8's largest
(e4m3, 448), and products are added up in float32. Which layers: T5's, where nine tenths of all the work is. What it
costs in accuracy, `python -m pipeline verify` tells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from schemas.errors import ConfigError

_DTYPE = torch.float8_e4m3fn
_LARGEST = torch.finfo(_DTYPE).max
_HOPPER = (8, 9)  # Ada has it too


Quantize = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Float8Linear(nn.Module):
    """A linear layer without a bias.

    Args:
        weight: [out, in], bfloat16; both multiples of 16.
        quantize: `quantized_rows`, or the same compiled.
    """

    def __init__(self, weight: torch.Tensor, quantize: Quantize) -> None:
        super().__init__()
        self.weight, scale_O1 = quantized_rows(weight)
        self._scale_1O = scale_O1.t().contiguous()
        self._quantize = quantize

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[N, in] to [N, out], both bfloat16."""
        quantized, scale_N1 = self._quantize(inputs)
        # Columns of the second factor must lie in memory as rows do.
        return torch._scaled_mm(
            quantized, self.weight.t(), scale_a=scale_N1, scale_b=self._scale_1O, out_dtype=torch.bfloat16
        )


def require_float8(device: torch.device) -> None:
    """Refuses a device that has no products of float8.

    Raises:
        ConfigError: Code `float8-unsupported`.
    """
    if device.type == "cpu" or torch.cuda.get_device_capability(device) >= _HOPPER:
        return
    raise ConfigError(
        "float8-unsupported",
        where="--compute-dtype float8",
        expected="a GPU with products of float8: Ada, Hopper or later",
        actual=torch.cuda.get_device_name(device),
        remedy="use --compute-dtype bfloat16",
    )


def quantized_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float8 of the same shape, and the scales it is to be multiplied by, float32 [rows, 1]."""
    scale = values.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / _LARGEST
    return (values.float() / scale).to(_DTYPE), scale
