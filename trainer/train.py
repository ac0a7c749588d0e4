"""`python -m trainer train`: from a configuration to a trained model and an exit status."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from schemas.local_files import replace_local
from schemas.printable import printable
from trainer.agreement import require_same_everywhere, together
from trainer.checkpoint import Checkpointer
from trainer.checkpoint_document import RunDescription, read_run
from trainer.checkpoint_folder import open_checkpoint
from trainer.distributed import Distributed, connected
from trainer.ema import Ema
from trainer.evaluation import evaluations
from trainer.key_log import open_key_log
from trainer.loop import Loop, LoopConfig
from trainer.metrics import Metrics
from trainer.model import build_model, transformer_config
from trainer.optimizer import build_optimizer
from trainer.parallelize import parallelize
from trainer.presets import TrainConfig
from trainer.resuming import changes, require_resumable, resolved
from trainer.sources import Sources, open_sources
from trainer.state import TrainState
from trainer.step import StepConfig, TrainStep
from trainer.stopping import stop_on_signals
from trainer.stream.batch import Batch

CONFIG_NAME = "config.json"


class ExitStatus(IntEnum):
    """What `train` answers to the shell."""

    COMPLETE = 0
    """All steps are done, or the time of --max-seconds is up."""
    ERROR = 1
    """The run could not go on; the message says why."""
    USAGE = 2
    """The command line was wrong."""
    STOPPED = 4
    """The run was stopped, and saved; the same command resumes it."""


def run(config: TrainConfig) -> ExitStatus:
    """Trains from the beginning, or from the latest checkpoint in the output folder.

    Raises:
        EncodeOnceError: The configuration, the data or a checkpoint cannot be used; or another rank could not go on.
    """
    with connected(config.device, config.timeout_seconds()) as distributed, contextlib.ExitStack() as stack:
        sources = together(distributed, lambda: open_sources(config, distributed))
        stack.callback(sources.close)
        require_same_everywhere(distributed, sources.stream.fingerprint, what="the datasets and options")
        stop = stack.enter_context(stop_on_signals())
        complete = _prepare(config, distributed, sources, stack).run(stop)
    return ExitStatus.COMPLETE if complete else ExitStatus.STOPPED


@dataclass(frozen=True)
class _Built:
    """A model ready to be trained.

    Attributes:
        state: Before the first step.
        num_parameters: Of the model.
        model_config: Of diffusers' transformer.
        shift: Resolution shift of the run.
    """

    state: TrainState
    num_parameters: int
    model_config: Mapping[str, Any]
    shift: float


def _prepare(config: TrainConfig, distributed: Distributed, sources: Sources, stack: contextlib.ExitStack) -> Loop:
    """The loop, its state that of the latest checkpoint if there is one; collective."""
    folder = Path(config.output)
    built = _build(config, distributed, sources)
    state = built.state
    description = _describe(config, sources, built.shift)
    checkpointer = Checkpointer(folder, config.checkpoint, run=description, model_config=built.model_config)
    _resume(config, distributed, checkpointer, state)
    metrics = None
    if distributed.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        replace_local(folder / CONFIG_NAME, (json.dumps(resolved(config), indent=2) + "\n").encode())
        _print_start(distributed, sources, built)
        metrics = Metrics(
            folder,
            config.metrics,
            num_steps=config.steps,
            max_seconds=config.max_seconds,
            first_step=state.step,
            run_config=resolved(config),
        )
        stack.callback(metrics.close)
    on_batches: Callable[[int, list[Batch]], None] | None = None
    if config.log_keys:
        on_batches = stack.enter_context(open_key_log(folder, distributed, state.step))
    step = StepConfig(config.flow, built.shift, config.optimizer, config.steps, config.seed, config.max_seconds)
    return Loop(
        LoopConfig(
            config.steps,
            config.accumulation,
            config.metrics.log_every,
            config.checkpoint.every_steps,
            config.max_seconds,
        ),
        state,
        sources.stream,
        TrainStep(state, step, distributed, sources.placeholder()),
        distributed,
        saver=checkpointer,
        reporter=metrics,
        due=evaluations(
            config, distributed, sources, state, metrics, model_config=built.model_config, shift=built.shift
        ),
        on_batches=on_batches,
    )


def _build(config: TrainConfig, distributed: Distributed, sources: Sources) -> _Built:
    arguments = transformer_config(config.model, sources.stream.layout, sources.latents)
    model = build_model(arguments, seed=config.seed, device=distributed.device)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    model_config = json.loads(model.to_json_string())
    parallelize(model, config.parallel, distributed.mesh)
    ema = Ema(model, config.ema.decay) if config.ema.enabled else None
    state = TrainState(model, build_optimizer(model, config.optimizer), ema, sources.stream)
    return _Built(state, num_parameters, model_config, config.flow.resolved_shift(sources.latents.resolution))


def _describe(config: TrainConfig, sources: Sources, shift: float) -> RunDescription:
    return RunDescription(
        config=resolved(config),
        datasets=config.data,
        captions=sources.stream.identity,
        latents=sources.latents,
        left_out=config.conditioning.left_out,
        t5_tokens=sources.encoding.t5_tokens,
        shift=shift,
        versions={name: version(name) for name in ("torch", "diffusers", "numpy", "pyarrow")},
    )


def _resume(config: TrainConfig, distributed: Distributed, checkpointer: Checkpointer, state: TrainState) -> None:
    latest = checkpointer.latest()
    if latest is None:
        return
    changed = together(distributed, lambda: _changes_since(config, latest))
    if distributed.is_main:
        for name, change in changed.items():
            print(printable(f"changed since the checkpoint: {name}: {change}"), flush=True)
    checkpointer.load(latest, state)


def _changes_since(config: TrainConfig, checkpoint: Path) -> dict[str, str]:
    """What is told otherwise than when the checkpoint was made; refuses what a resume cannot change."""
    # Its files first: what is damaged is then named together with the checkpoint to go back to.
    open_checkpoint(checkpoint)
    changed = changes(read_run(checkpoint).config, resolved(config))
    require_resumable(changed, where=str(checkpoint))
    return changed


def _print_start(distributed: Distributed, sources: Sources, built: _Built) -> None:
    step = built.state.step
    print(
        f"{built.num_parameters / 1e6:,.1f} million parameters | {sources.stream.rows_per_epoch:,} samples an epoch | "
        f"{distributed.world_size} x {distributed.device.type} | shift {built.shift:g} | "
        + (f"goes on after step {step:,}" if step else "begins"),
        flush=True,
    )
