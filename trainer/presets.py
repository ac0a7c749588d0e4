"""What `train` can be told, and the presets it starts from."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field

import tyro

from schemas.errors import ConfigError
from trainer.checkpoint import CheckpointConfig
from trainer.conditioning import ConditioningConfig
from trainer.distributed import DeviceOption
from trainer.ema import EmaConfig
from trainer.flow import FlowConfig
from trainer.images import ImagesConfig
from trainer.metrics import MetricsConfig
from trainer.model import ModelConfig
from trainer.optimizer import OptimizerConfig
from trainer.parallelize import ParallelConfig
from trainer.sampling import SamplingConfig
from trainer.stream.config import StreamConfig
from trainer.validation import ValidationConfig


@dataclass(frozen=True)
class TrainConfig:
    """Train an MMDiT on stored captions and images. The same command again resumes from the latest checkpoint."""

    data: tuple[str, ...]
    """Datasets with captions and latents: folders or bucket URLs."""

    output: str
    """Folder of the run, on a file system that all ranks share: checkpoints, figures, pictures."""

    prompts: str | None = None
    """Dataset of prompts (`python -m pipeline encode-prompts`) for pictures while the run goes."""

    steps: int = 500_000
    """Optimizer steps of the whole run."""

    max_seconds: float | None = None
    """Seconds of training after which the run is complete, whatever steps are left; a cosine schedule ends then.
    Counted from the first step over all resumes; start-up and the last checkpoint and evaluation come on top."""

    batch_size: int = 1024
    """Samples of a step, on all ranks together."""

    accumulation: int = 1
    """Passes in which each rank does its samples of a step: more need less memory."""

    seed: int = 0
    """Of the first weights, the order, the caption draws, the dropout, the noise."""

    device: DeviceOption = "auto"
    """auto: the GPU if there is one."""

    log_keys: bool = False
    """Write which samples each step was trained on to OUTPUT/keys, a file a rank."""

    model: ModelConfig = field(default_factory=ModelConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)

    def __post_init__(self) -> None:
        """Refuses numbers that mean nothing."""
        wrong = [name for name in ("steps", "batch_size", "accumulation") if getattr(self, name) < 1]
        if self.max_seconds is not None and not self.max_seconds > 0:
            wrong.append("max_seconds")
        if wrong:
            raise ConfigError(
                "option-out-of-range",
                where=", ".join(f"--{name.replace('_', '-')}" for name in wrong),
                expected="a number above 0",
                actual=", ".join(str(getattr(self, name)) for name in wrong),
                remedy="choose another value, or leave the option out",
            )

    def batch_size_of_rank(self, world_size: int) -> int:
        """Rows of one pass on one rank.

        Raises:
            ConfigError: The batch cannot be divided evenly.
        """
        parts = world_size * self.accumulation
        if self.batch_size % parts:
            raise ConfigError(
                "batch-size-indivisible",
                where="--batch-size",
                expected=f"a multiple of {world_size} ranks x {self.accumulation} accumulation",
                actual=str(self.batch_size),
                remedy="batch-size counts the samples of a step on all ranks; change it or --accumulation",
            )
        return self.batch_size // parts

    def timeout_seconds(self) -> float:
        """How long ranks wait for each other: longer than a rank may try to read a chunk."""
        if self.parallel.timeout_seconds is not None:
            return self.parallel.timeout_seconds
        return self.stream.read_attempts * self.stream.read_timeout_seconds + 300.0


_MISSING = TrainConfig(data=tyro.MISSING, output=tyro.MISSING)

_COMPILED = ParallelConfig(compile=True)


def _mmdit(depth: int) -> tuple[str, TrainConfig]:
    about = f"Depth {depth}, width {64 * depth}, {depth} heads, as the Stable Diffusion 3 paper scales the model."
    return about, dataclasses.replace(_MISSING, model=ModelConfig(depth=depth), parallel=_COMPILED)


_DEMO = dataclasses.replace(
    _MISSING,
    steps=3000,
    # Small steps and a shallow model: what counts is what a CPU learns in a given time.
    batch_size=16,
    model=ModelConfig(depth=3, num_heads=2, head_dim=64, patch_size=4),
    # Flat pictures of few pixels betray their colours through much noise: what the prompt decides is decided early.
    flow=FlowConfig(shift=3.0),
    # T5 is learnt first. Where it is there, the CLIPs teach nothing new: so it is left out more often than they are.
    conditioning=ConditioningConfig(dropout=(0.3, 0.3, 0.5)),
    stream=StreamConfig(num_streams=8, memory_bytes=512 * 1024**2, holdout_rows=128),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=50, schedule="cosine", final_share=0.05),
    ema=EmaConfig(decay=0.99),
    parallel=ParallelConfig(dtype="float32"),
    checkpoint=CheckpointConfig(every_steps=500),
    validation=ValidationConfig(every_steps=1000),
    images=ImagesConfig(every_steps=1000, sampling=SamplingConfig(steps=20, guidance=3.0)),
)

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "demo": ("A small model for the demo's pictures, trained on a CPU in minutes.", _DEMO),
    "sd3-medium": (
        "Stable Diffusion 3 medium: 24 blocks, 2 billion parameters, bfloat16, compiled.",
        dataclasses.replace(
            _MISSING, model=ModelConfig(depth=24, sample_size=128, pos_embed_max_size=192), parallel=_COMPILED
        ),
    ),
    **{f"mmdit-d{depth}": _mmdit(depth) for depth in (15, 18, 21, 30, 38)},
}
"""By name: what it is for, and its settings. Any option can be overridden on the command line."""


def presets_with(name: str | None) -> dict[str, tuple[str, TrainConfig]]:
    """The presets, and the one of any depth that `name` may mean: mmdit-d12."""
    match = re.fullmatch(r"mmdit-d([1-9]\d{0,2})", name or "")
    return PRESETS if match is None else {**PRESETS, match[0]: _mmdit(int(match[1]))}
