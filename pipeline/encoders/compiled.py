"""Elementwise functions as one kernel: what is between an encoder's products costs memory traffic, once a kernel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


def compiled(
    function: Callable[[torch.Tensor], _T], example: torch.Tensor, *, always: bool = False
) -> Callable[[torch.Tensor], _T]:
    """The function by way of torch.compile, one graph for all numbers of rows, if that works for the example.

    Products and attention are library kernels that compiling does not change, so they are left alone; then there are
    two graphs to a process. torch keeps what it compiled on disk, for all processes of a user on a machine.

    Args:
        function: Of a [N, width] tensor.
        example: What it will be given, of any number of rows above 1.
        always: Also on the CPU, where torch's own kernels are as good and compiling takes longer than a small job.

    Returns:
        The compiled function, or the function itself: on the CPU, and, with a warning, where compiling fails, as
        without a C compiler.
    """
    if example.device.type != "cuda" and not always:
        return function
    fast: Callable[[torch.Tensor], _T] = torch.compile(function, dynamic=True, fullgraph=True)
    try:
        with torch.inference_mode():
            fast(example)
    except Exception as error:  # torch.compile raises errors of many kinds
        _log.warning("goes on without compiled kernels, a few percent slower: %s: %s", type(error).__name__, error)
        return function
    return fast
