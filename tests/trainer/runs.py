"""Small training states, and checkpoints of them, for the tests of what reads and writes checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models import SD3Transformer2DModel
from torch import nn

from schemas.identity import LatentIdentity
from tests.datasets import MAX_TOKENS, SIZES, make_identity
from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.checkpoint_document import RunDescription

PIXELS = LatentIdentity(
    kind="pixels",
    source="pixels",
    revision=None,
    weights_sha256=None,
    architecture={},
    num_channels=3,
    downscale_factor=1,
    shift_factor=0.0,
    scaling_factor=1.0,
    posterior=None,
    resolution=16,
    crop="center",
    buckets=((16, 16),),
    resample="lanczos",
    compute_dtype="float32",
    storage_dtype="uint8",
)


def small_model(seed: int = 0, **config: Any) -> SD3Transformer2DModel:
    """A transformer for the datasets of tests/datasets.py, every parameter random: adaLN-zero would hide mistakes."""
    defaults: dict[str, Any] = {
        "sample_size": 16, "patch_size": 4, "in_channels": 3, "out_channels": 3, "num_layers": 2,
        "attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32, "pos_embed_max_size": 8,
        "joint_attention_dim": SIZES["t5"][0], "pooled_projection_dim": SIZES["clip_l"][0] + SIZES["clip_g"][0],
        "qk_norm": "rms_norm",
    }  # fmt: skip
    model = SD3Transformer2DModel(**defaults | config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def describe_run(**changes: Any) -> RunDescription:
    """The description of a run on such a dataset."""
    description = RunDescription(
        config={"preset": "test"},
        datasets=("memory",),
        captions=make_identity(),
        latents=PIXELS,
        left_out="zeros",
        t5_tokens=MAX_TOKENS,
        shift=1.0,
        versions={"torch": torch.__version__},
    )
    return description.model_copy(update=changes)


@dataclass
class Stream:
    """A stream's state."""

    position: int = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "fingerprint": "f"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Average:
    """A moving average: what `trainer.ema` is to a checkpoint."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def update(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            self.tensors[name].lerp_(parameter.detach(), 0.1)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.tensors)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])


@dataclass
class State:
    """What `trainer.state.TrainState` is to a checkpoint."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Average | None
    stream: Stream = field(default_factory=Stream)
    step: int = 0
    seconds: float = 0.0

    def train(self) -> None:
        """A step whose values depend on everything a checkpoint must hold, the random generator included."""
        for parameter in self.model.parameters():
            parameter.grad = torch.sin(parameter.detach()) * torch.rand(())
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model)
        self.step += 1
        self.seconds += 1.5
        self.stream.position += 8


def start(model: nn.Module, *, ema: bool = True) -> State:
    """A training state before its first step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    return State(model, optimizer, Average(model) if ema else None)


def checkpointer(
    folder: Path, *, keep: int = 3, model_config: dict[str, Any] | None = None, **description: Any
) -> Checkpointer:
    """A checkpointer for `small_model`."""
    config = model_config if model_config is not None else json.loads(small_model().to_json_string())
    return Checkpointer(folder, CheckpointConfig(keep=keep), run=describe_run(**description), model_config=config)


def save_run(folder: Path, *, steps: int = 2, seed: int = 0) -> State:
    """A run of a few steps with one checkpoint; returns its state."""
    state = start(small_model(seed))
    for _ in range(steps):
        state.train()
    saver = checkpointer(folder)
    saver.save(state, state.step)
    saver.wait()
    return state
