"""One measurement of a training step, in a process of its own: `trainer`'s own loop, step, model and stream."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.encode.matrix_product import product_rate
from benchmarks.training_step_sizes import SIZES, Size, caption_identity, latent_identity
from schemas.dataset import open_dataset
from trainer.conditioning import ConditioningConfig, ContextLayout, context_layout
from trainer.distributed import Distributed, connected
from trainer.ema import Ema
from trainer.flow import FlowConfig
from trainer.loop import Loop, LoopConfig, Stream
from trainer.model import build_model, transformer_config
from trainer.optimizer import OptimizerConfig, build_optimizer
from trainer.parallelize import ParallelConfig, parallelize
from trainer.state import TrainState
from trainer.step import StepConfig, TrainStep
from trainer.stopping import StopRequest
from trainer.stream.batch import MicroBatch
from trainer.stream.config import StreamConfig
from trainer.stream.loader import StreamLoader


@dataclass(frozen=True)
class Measurement:
    """What to measure.

    Attributes:
        source: stored: conditioning from the dataset; encoders: encoded in every step.
        size: Name in `SIZES`.
        resolution: Of the pictures, px.
        batch_size: Samples of a step.
        steps: That are measured, after as many that are not.
        checkpointing: Whether activations are computed again in the backward pass.
        compile: Whether the blocks are compiled.
        device: "auto", "cuda" or "cpu".
        data: The dataset, written by `write_dataset`.
    """

    source: Literal["stored", "encoders"]
    size: str
    resolution: int
    batch_size: int
    steps: int
    checkpointing: bool
    compile: bool
    device: Literal["auto", "cuda", "cpu"]
    data: str


class _Figures:
    """Keeps what the loop reports."""

    def __init__(self) -> None:
        self.last: Mapping[str, float] = {}

    def training(self, step: int, values: Mapping[str, float]) -> None:
        """Of the steps since the last line."""
        print(f"step {step}: {dict(values)}", file=sys.stderr, flush=True)
        self.last = values


class NoSaver:
    """The run leaves nothing behind."""

    def save(self, state: TrainState, step: int) -> None:
        """Does nothing."""

    def wait(self) -> None:
        """Nothing to wait for."""


def run(wanted: Measurement) -> dict[str, Any]:
    """Trains, and gives the figures of the second half of the steps."""
    size = SIZES[wanted.size]
    with connected(wanted.device, 600.0) as distributed:
        layout = context_layout(caption_identity(size))
        arguments = transformer_config(size.model, layout, latent_identity(wanted.resolution))
        flops = _forward_flops(arguments, layout, wanted.resolution)
        product = _product_rate(size, distributed.device)
        stream, loader, encoder_parameters = _stream(wanted, size, layout, distributed)
        try:
            state = _state(wanted, size, arguments, loader, distributed)
            figures = _Figures()
            _loop(wanted, state, stream, distributed, layout, figures).run(StopRequest())
        finally:
            loader.close()
        rate = figures.last["samples_per_second"]
        return {
            **dict(figures.last),
            # A backward pass is two forward passes' work; what checkpointing computes again is not counted.
            "model_flops_per_second": 3 * flops * rate,
            "product_flops_per_second": product,
            "utilisation": 3 * flops * rate / product,
            "forward_gflop_per_sample": flops / 1e9,
            "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
            "encoder_parameters": encoder_parameters,
            "device": _device_name(distributed.device),
        }


def _stream(
    wanted: Measurement, size: Size, layout: ContextLayout, distributed: Distributed
) -> tuple[Stream, StreamLoader, int]:
    """The batches, the stored stream (unread if they do not come from it), and the encoders' parameters."""
    dtype, conditioning = getattr(torch, size.dtype), ConditioningConfig()
    loader = StreamLoader(
        [open_dataset(wanted.data)],
        StreamConfig(memory_bytes=size.stream_bytes),
        conditioning,
        seed=0,
        batch_size=wanted.batch_size,
        device=distributed.device,
        dtype=dtype,
    )
    if wanted.source == "stored":
        return loader, loader, 0
    # Here and not above: training from stored conditioning must not need transformers.
    from benchmarks.training_step_encoders import EncodingStream, TextEncoders

    encoders = TextEncoders(size, distributed.device, dtype)
    stream = EncodingStream(
        encoders,
        layout,
        latent_identity(wanted.resolution),
        batch_size=wanted.batch_size,
        dropout=conditioning.dropout,
        device=distributed.device,
        dtype=dtype,
        vocabulary=size.vocabulary,
    )
    return stream, loader, encoders.num_parameters


def _state(
    wanted: Measurement, size: Size, arguments: dict[str, Any], loader: StreamLoader, distributed: Distributed
) -> TrainState:
    model = build_model(arguments, seed=0, device=distributed.device)
    dtype: Any = size.dtype
    parallel = ParallelConfig(dtype=dtype, activation_checkpointing=wanted.checkpointing, compile=wanted.compile)
    parallelize(model, parallel, distributed.mesh)
    return TrainState(model, build_optimizer(model, OptimizerConfig()), Ema(model, 0.9999), loader)


def _loop(
    wanted: Measurement,
    state: TrainState,
    stream: Stream,
    distributed: Distributed,
    layout: ContextLayout,
    figures: _Figures,
) -> Loop:
    dtype = getattr(torch, SIZES[wanted.size].dtype)
    empty = placeholder(wanted.resolution, layout, dtype, distributed.device)
    flow, num_steps = FlowConfig(), 2 * wanted.steps
    config = StepConfig(flow, flow.resolved_shift(wanted.resolution), OptimizerConfig(), num_steps, 0)
    return Loop(
        LoopConfig(num_steps, accumulation=1, log_every=wanted.steps, checkpoint_every=num_steps + 1),
        state,
        stream,
        TrainStep(state, config, distributed, empty),
        distributed,
        saver=NoSaver(),
        reporter=figures,
    )


def placeholder(resolution: int, layout: ContextLayout, dtype: torch.dtype, device: torch.device) -> MicroBatch:
    """A sample of zeros, for `TrainStep`."""
    latents = latent_identity(resolution)
    return MicroBatch(
        torch.zeros(1, *latents.latent_shape(*latents.buckets[0]), device=device),
        torch.zeros(1, layout.num_tokens, layout.width, dtype=dtype, device=device),
        torch.zeros(1, layout.pooled_width, dtype=dtype, device=device),
        np.zeros(1, np.int64),
    )


def _forward_flops(arguments: dict[str, Any], layout: ContextLayout, resolution: int) -> float:
    """Of one sample's forward pass: every matrix product and attention, counted as the model runs on no data."""
    with torch.device("meta"):
        model = SD3Transformer2DModel(**arguments)
        latents = torch.zeros(1, *latent_identity(resolution).latent_shape(resolution, resolution))
        context = torch.zeros(1, layout.num_tokens, layout.width)
        pooled = torch.zeros(1, layout.pooled_width)
        with FlopCounterMode(display=False) as counter:
            model(latents, context, pooled, torch.zeros(1))
    return float(counter.get_total_flops())


def _product_rate(size: Size, device: torch.device) -> float:
    side = size.matrix
    return product_rate(side, side, side, size.product_seconds, device, getattr(torch, size.dtype))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
