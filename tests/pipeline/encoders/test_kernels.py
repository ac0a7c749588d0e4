"""Triton kernels without a GPU: values in Triton's interpreter, and the machine code that sm_90 would run."""

from __future__ import annotations

import collections
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pipeline.encoders import kernels

HOPPER = GPUTarget("cuda", 90, 32)
BFLOAT16 = "*bf16"


def test_values_in_tritons_interpreter() -> None:
    # A process of its own: Triton decides at import whether its own functions are interpreted.
    file = Path(__file__).with_name("kernels_in_interpreter.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=280", str(file)]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def instructions(kernel: Any, constants: dict[str, object], num_warps: int, **kinds: str) -> collections.Counter[str]:
    """How often each instruction occurs in a kernel as it is compiled for Hopper.

    Args:
        kernel: Of `kernels`.
        constants: Its compile-time arguments.
        num_warps: Of a program.
        kinds: Triton's types of its other arguments, where they are not pointers to bfloat16.
    """
    signature = {name: "constexpr" if name in constants else kinds.get(name, BFLOAT16) for name in kernel.arg_names}
    # What Triton finds out about memory of torch's allocator when it launches.
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(kernel.arg_names) if "_ptr" in name}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": num_warps, **kernels._OPTIONS})
    disassembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        listing = subprocess.run([disassembler, "-c", file.name], capture_output=True, check=True)
    pattern = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]+)", re.MULTILINE)
    return collections.Counter(pattern.findall(listing.stdout.decode()))


def accesses(found: collections.Counter[str]) -> set[str]:
    """Kinds of loads and stores of global memory."""
    return {name for name in found if name.startswith(("LDG", "STG"))}


@pytest.mark.parametrize(
    ("kernel", "constants", "num_warps", "most"),
    [
        (kernels._gated_gelu_kernel, {"WIDTH": 10240, "BLOCK": 1024}, 4, 34 * 8),
        (kernels._quick_gelu_kernel, {"WIDTH": 3072, "BLOCK": 1024}, 4, 34 * 8),
        (kernels._rms_norm_kernel, {"EPS": 1e-6, "WIDTH": 4096, "BLOCK": 4096}, 8, 15 * 16),
        (kernels._add_layer_norm_kernel, {"EPS": 1e-5, "WIDTH": 1280, "BLOCK": 2048}, 4, 25 * 16),
        (kernels._add_layer_norm_kernel, {"EPS": 1e-5, "WIDTH": 768, "BLOCK": 1024}, 2, 25 * 16),
    ],
)
def test_elementwise_kernels_move_128_bits_at_a_time(
    kernel: Any, constants: dict[str, object], num_warps: int, most: int
) -> None:
    """At the real encoders' widths; a width that were no constant would cost 16-bit loads and 64-bit divisions."""
    found = instructions(kernel, constants, num_warps)
    assert accesses(found) == {"LDG.E.128", "STG.E.128"}
    assert found.total() <= most


def test_quantizing_moves_128_bits_at_a_time() -> None:
    kinds = {"out_ptr": "*fp8e4nv", "scales_ptr": "*fp32"}
    found = instructions(kernels._quantize_rows_kernel, {"WIDTH": 10240, "BLOCK": 16384}, 16, **kinds)
    # The scale is a single number.
    assert accesses(found) == {"LDG.E.128", "STG.E", "STG.E.128"}


@pytest.mark.parametrize("num_distances", [0, 511])
def test_attention_runs_on_tensor_cores(num_distances: int) -> None:
    constants = {
        "SCALE": 1.0,
        "Q_STRIDE": 12288,
        "KV_STRIDE": 12288,
        "OUT_STRIDE": 4096,
        "CHANNELS": 64,
        "NUM_DISTANCES": num_distances,
        "PRECISION": "tf32",
        "QUERY_BLOCK": 64,
        "KEY_BLOCK": 64,
    }
    kinds = {"starts_ptr": "*i32", "stops_ptr": "*i32", "num_queries": "i32"}
    found = instructions(kernels._attention_kernel, constants, 4, **kinds)
    assert any(name.startswith("HGMMA") for name in found)
    # Queries, keys and values are moved 128 bits at a time; nothing spills.
    assert found["LDGSTS.E.BYPASS.128"] + found["LDG.E.128"] > 0
    assert not any(name.startswith(("LDL", "STL")) for name in found)


def test_a_kernel_is_compiled_once_for_all_numbers_of_rows() -> None:
    """Numbers of rows are no compile-time arguments: of the kernels, attention alone takes one at all."""
    names = {name for kernel in vars(kernels).values() if hasattr(kernel, "arg_names") for name in kernel.arg_names}
    assert {name for name in names if not name.endswith("_ptr") and name.islower()} == {"num_queries"}
    assert kernels._attention_kernel.do_not_specialize == ["num_queries"]
