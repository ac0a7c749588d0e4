"""Settings of torch and Arrow for a process that encodes: threads, memory, and float32 that is float32."""

from __future__ import annotations

import os

import pyarrow as pa
import torch

_ONEDNN_PRIMITIVES = "32"
_PRODUCTS = "64"


def apply_process_settings(num_threads: int) -> None:
    """Limits the threads and the memory of this process's libraries. Call it before anything is computed.

    Args:
        num_threads: Threads that torch may use, and as many again that encode chunks.
    """
    torch.set_num_threads(num_threads)
    pa.set_cpu_count(num_threads)
    # On Hopper torch prefers cuDNN's attention, which builds a plan of 20-40 ms for every shape, in every thread.
    torch.backends.cuda.enable_cudnn_sdp(False)
    # Arrow's own allocator keeps what it frees; chunks come and go by the dozen MB.
    pa.set_memory_pool(pa.system_memory_pool())
    # oneDNN keeps what it compiled for each shape of a product, and so does torch's own layer over it: 1,024 of them by
    # default, with their memory. Both are read at the first product.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _ONEDNN_PRIMITIVES)
    os.environ.setdefault("LRU_CACHE_CAPACITY", _PRODUCTS)
    require_exact_float32()


def require_exact_float32() -> None:
    """Makes a GPU compute float32 products and convolutions in float32.

    By default cuDNN rounds the inputs of float32 convolutions to TF32, which has 10 bits of mantissa instead of 23. A
    compute dtype is part of a dataset's identity, and `verify` compares with float32: both mean the 23 bits.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
