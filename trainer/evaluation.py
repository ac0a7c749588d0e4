"""What a run looks at every so many steps, with the averaged weights: the validation loss, and pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.agreement import together
from trainer.distributed import Distributed
from trainer.images import grid_maker
from trainer.loop import Due
from trainer.metrics import Metrics
from trainer.presets import TrainConfig
from trainer.sources import Sources
from trainer.state import TrainState
from trainer.stream.loader import StreamLoader
from trainer.validation import validation_losses

IMAGES = "images"


def evaluations(
    config: TrainConfig,
    distributed: Distributed,
    sources: Sources,
    state: TrainState,
    metrics: Metrics | None,
    *,
    model_config: Mapping[str, Any],
    shift: float,
) -> list[Due]:
    """The evaluations of a run; collective.

    Args:
        config: How often, and which.
        distributed: The ranks.
        sources: Held-out samples and prompts; what there is none of is not evaluated.
        state: What is trained.
        metrics: Of the main rank; None on the others.
        model_config: Of diffusers' transformer.
        shift: Resolution shift of the run.

    Raises:
        ConfigError: Pictures cannot be made as they are asked for.
    """
    due = []
    if sources.holdout is not None:
        due.append(Due(config.validation.every_steps, _validation(config, distributed, sources, state, metrics)))
    prompts = sources.prompts
    if prompts is not None:
        make = together(
            distributed,
            lambda: grid_maker(
                config.images,
                state.model,
                prompts,
                encoding=sources.encoding,
                latents=sources.latents,
                model_config=model_config,
                shift=shift,
            ),
        )
        folder = Path(config.output) / IMAGES
        due.append(Due(config.images.every_steps, _pictures(make, folder, distributed, state)))
    return due


def _validation(
    config: TrainConfig, distributed: Distributed, sources: Sources, state: TrainState, metrics: Metrics | None
) -> Callable[[], None]:
    holdout, placeholder = sources.holdout, sources.placeholder()
    assert isinstance(holdout, StreamLoader)

    def validate() -> None:
        holdout.load_state_dict({"position": 0, "fingerprint": holdout.fingerprint})
        with averaged_weights(state):
            losses = validation_losses(
                state.model,
                holdout,
                distributed,
                timesteps=config.validation.timesteps,
                seed=config.seed,
                placeholder=placeholder,
            )
        holdout.close()
        if metrics is not None:
            metrics.validation(state.step, losses)

    return validate


def _pictures(
    make: Callable[[Path | None], None], folder: Path, distributed: Distributed, state: TrainState
) -> Callable[[], None]:
    def draw() -> None:
        target = folder / f"step-{state.step:08d}.png"
        with averaged_weights(state):
            make(target if distributed.is_main else None)
        if distributed.is_main:
            print(f"step {state.step:,} | pictures in {target}", flush=True)

    return draw


def averaged_weights(state: TrainState) -> contextlib.AbstractContextManager[None]:
    """The model has its averaged weights inside, if the run keeps them."""
    return contextlib.nullcontext() if state.ema is None else state.ema.in_model()
