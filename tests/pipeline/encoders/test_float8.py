"""float8: T5's linear layers alone, close to float32, recorded in the identity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.encoders.float8 import Float8Linear, require_float8
from pipeline.encoders.operations import TORCH_OPERATIONS
from schemas.errors import ConfigError
from tests.checkpoints import small_clip, small_t5, write_sd3
from tests.pipeline.encoders.encoding import encode, load


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3")
    write_sd3(folder, small_clip(1, width=64), small_clip(2, width=96, activation="gelu"), small_t5(3))
    return folder


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.float() - expected.float()).norm() / expected.float().norm())


def test_a_layer_is_as_close_as_three_bits_of_mantissa_allow() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 64, generator=random).bfloat16()
    # Scales per row and per output: neither large tokens nor large outputs cost the others their precision.
    inputs = (torch.randn(20, 64, generator=random) * torch.logspace(-3, 3, 20)[:, None]).bfloat16()
    weight *= torch.logspace(-2, 2, 48)[:, None].bfloat16()
    actual, expected = Float8Linear(weight, TORCH_OPERATIONS)(inputs), inputs.float() @ weight.float().t()
    assert actual.dtype == torch.bfloat16
    error = (actual.float() - expected).norm(dim=1) / expected.norm(dim=1)
    assert 0.001 < error.max() < 0.1
    per_output = (actual.float() - expected).norm(dim=0) / expected.norm(dim=0)
    # The largest token decides here, and an output of it may be near zero: the middle one, and the smallest scales.
    assert per_output.median() < 0.1
    assert per_output[:10].median() < 0.1
    assert not Float8Linear(weight, TORCH_OPERATIONS)(torch.zeros(3, 64).bfloat16()).any()


def test_t5_is_close_and_says_so(sd3: Path) -> None:
    captions = ["a photo of a dog", "two red cats", ""]
    exact = encode(load("t5", sd3), captions).hidden
    found = {}
    for dtype in ("bfloat16", "float8"):
        encoder = load("t5", sd3, compute_dtype=dtype)
        assert encoder.identity.compute_dtype == dtype
        found[dtype] = relative_error(encode(encoder, captions).hidden, exact)
    assert found["bfloat16"] < 0.02
    assert found["bfloat16"] < found["float8"] < 0.2


def test_a_clip_has_no_float8(sd3: Path) -> None:
    with pytest.raises(ConfigError, match="option-out-of-range"):
        load("clip_l", sd3, compute_dtype="float8")


def test_a_gpu_without_float8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    with pytest.raises(ConfigError, match=r"float8-unsupported[\s\S]*A100"):
        require_float8(torch.device("cuda"), {"width": 64})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    require_float8(torch.device("cuda"), {"width": 64})


def test_widths_without_float8_kernels_are_refused() -> None:
    require_float8(torch.device("cpu"), {"width": 4096, "MLP width": 10240})
    with pytest.raises(ConfigError, match=r"float8-unsupported[\s\S]*MLP width 1000"):
        require_float8(torch.device("cpu"), {"width": 4096, "MLP width": 1000})


@pytest.mark.parametrize(("inputs", "outputs"), [(4096, 12288), (4096, 4096), (4096, 20480), (10240, 4096)])
def test_products_of_t5_xxl_are_accepted_on_cuda(inputs: int, outputs: int) -> None:
    """torch's own checks of shapes, strides and scales, on tensors without memory: no GPU is needed."""
    with FakeTensorMode(), torch.device("cuda"):
        layer = Float8Linear(torch.empty(outputs, inputs, dtype=torch.bfloat16), TORCH_OPERATIONS)
        found = layer(torch.empty(8192, inputs, dtype=torch.bfloat16))
        assert found.shape == (8192, outputs)
        assert found.dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match="divisible by 16"):
            Float8Linear(torch.empty(48, 24, dtype=torch.bfloat16), TORCH_OPERATIONS)(
                torch.empty(64, 24, dtype=torch.bfloat16)
            )
