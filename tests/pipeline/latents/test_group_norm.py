"""GroupNorm and SiLU in one: torch's values, channels last, one graph for all sizes of images."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pipeline.latents.group_norm import GroupNormSilu, fuse_group_norms, group_norm_silu
from tests.pipeline.latents.autoencoders import small_autoencoder


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("shape", [(1, 8, 5, 7), (3, 16, 4, 4), (2, 32, 1, 9)])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_values_are_torchs(dtype: torch.dtype, tolerance: float, shape: tuple[int, ...], mean: float) -> None:
    random = torch.Generator().manual_seed(0)
    inputs = (torch.randn(shape, generator=random) + mean).to(dtype).to(memory_format=torch.channels_last)
    weight, bias = (torch.randn(shape[1], generator=random).to(dtype) for _ in range(2))
    found = group_norm_silu(inputs, weight, bias, 4, 1e-6)
    expected = F.silu(F.group_norm(inputs.double(), 4, weight.double(), bias.double(), 1e-6))
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, atol=tolerance * (1 + mean / 10), rtol=tolerance)


class Graphs:
    """A backend that keeps graphs instead of compiling them."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, _: list[Any]) -> Any:
        self.graphs.append(graph)
        return graph.forward


def test_an_encoder_is_fused_with_a_graph_for_each_width(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    graphs = Graphs()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=graphs))
    plain = small_autoencoder().encoder.to(memory_format=torch.channels_last).requires_grad_(False)
    fused = copy.deepcopy(plain)
    fuse_group_norms(fused)
    names = [type(module).__name__ for module in fused.modules()]
    # That of the attention is followed by no SiLU.
    assert names.count("GroupNorm") == 1
    assert names.count("SiLU") == 0
    assert names.count("GroupNormSilu") == 2 * names.count("ResnetBlock2D") + 1
    assert len(graphs.graphs) == 4, "8 and 16 channels, batches of 1 and larger ones"
    for batch, height, width in [(2, 16, 16), (4, 24, 16), (3, 32, 8), (8, 8, 32), (1, 16, 16), (1, 24, 40)]:
        images = torch.randn(batch, 3, height, width).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            torch.testing.assert_close(fused(images), plain(images), atol=1e-5, rtol=1e-4)
    assert len(graphs.graphs) == 4
    for graph in graphs.graphs:
        values = [node.meta.get("example_value") for node in graph.graph.nodes if node.op == "placeholder"]
        (inputs,) = [value for value in values if isinstance(value, torch.Tensor) and value.dim() == 4]
        assert type(inputs.shape[1]) is int, "a symbolic width takes several times the instructions"
    torch._dynamo.reset()


def no_compiler(*_: object) -> torch.Tensor:
    raise RuntimeError("no C compiler")


def other_values(inputs: torch.Tensor, *others: Any) -> torch.Tensor:
    return group_norm_silu(inputs, *others) + 0.1 * (inputs.shape[1] == 16)


@pytest.mark.parametrize(
    ("function", "reason"), [(no_compiler, "no C compiler"), (other_values, "values of 16 channels differ by 0.1")]
)
def test_where_compiling_fails_the_encoder_stays(
    function: object, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", lambda _: function)
    encoder = small_autoencoder().encoder
    fuse_group_norms(encoder)
    assert not any(isinstance(module, GroupNormSilu) for module in encoder.modules())
    assert reason in caplog.text
