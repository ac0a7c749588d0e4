"""The training loop: batches, agreement, step, and what is due after it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from trainer.agreement import Agreement, agree
from trainer.distributed import Distributed
from trainer.meter import Meter
from trainer.passes import num_passes, num_valid_rows
from trainer.state import TrainState
from trainer.step import TrainStep
from trainer.stopping import StopRequest
from trainer.stream.batch import Batch


class Saver(Protocol):
    """Saves checkpoints."""

    def save(self, state: TrainState, step: int) -> None:
        """Begins to save; waits for the save before."""
        ...

    def wait(self) -> None:
        """Returns when all is saved."""
        ...


class Reporter(Protocol):
    """Shows figures."""

    def training(self, step: int, values: Mapping[str, float]) -> None:
        """Of training steps."""
        ...


class Stream(Protocol):
    """Where batches come from."""

    waiting_seconds: float

    def __iter__(self) -> Iterator[Batch]:
        """Endless."""
        ...


@dataclass(frozen=True)
class Due:
    """Something that happens after every so many steps, on all ranks."""

    every_steps: int
    action: Callable[[], None]


@dataclass(frozen=True)
class LoopConfig:
    """How long, and how often.

    Attributes:
        num_steps: Of the whole run, those before a resume included.
        accumulation: Batches of a step.
        log_every: Steps between two lines of progress.
        checkpoint_every: Steps between two checkpoints.
        max_seconds: Time limit of the whole run, that before a resume included; None without one. The step that begins
            after it is the last one.
    """

    num_steps: int
    accumulation: int
    log_every: int
    checkpoint_every: int
    max_seconds: float | None = None


class Loop:
    """Trains until the last step, until the time is up, or until asked to stop.

    Args:
        config: How long.
        state: What is trained.
        stream: Batches; its position is in `state.stream`.
        step: Does a step.
        distributed: The ranks.
        saver: Of checkpoints.
        reporter: Of figures; None on ranks that show none.
        due: What else happens; also after the last step.
        on_batches: Told of the batches of each step.
        clock: Seconds that only go up.
    """

    def __init__(
        self,
        config: LoopConfig,
        state: TrainState,
        stream: Stream,
        step: TrainStep,
        distributed: Distributed,
        *,
        saver: Saver,
        reporter: Reporter | None,
        due: Iterable[Due] = (),
        on_batches: Callable[[int, list[Batch]], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._config = config
        self._state = state
        self._stream = stream
        self._step = step
        self._distributed = distributed
        self._saver = saver
        self._reporter = reporter
        self._due = tuple(due)
        self._on_batches = on_batches
        self._clock = clock
        self._meter = Meter(distributed)
        self._pacer = Pacer(distributed.device)

    def run(self, stop: StopRequest) -> bool:
        """Trains; collective. The state at the end has been saved.

        Returns:
            Whether all steps are done or the time is up; False if the run was stopped before.

        Raises:
            RankFailedError: Another rank could not go on.
            DivergedError: The loss is no longer a number. No checkpoint has it.
            Exception: What this rank's stream raised.
        """
        try:
            self._train(stop)
        except Exception:
            # A checkpoint that is on its way when something else fails is still worth having.
            with contextlib.suppress(Exception):
                self._saver.wait()
            raise
        self._saver.wait()
        return self._complete

    @property
    def _complete(self) -> bool:
        state, config = self._state, self._config
        out_of_time = config.max_seconds is not None and state.seconds >= config.max_seconds
        return state.step >= config.num_steps or out_of_time

    def _train(self, stop: StopRequest) -> None:
        state = self._state
        batches = iter(self._stream)
        self._began = self._clock() - state.seconds
        stopping = False
        while not self._complete and not stopping:
            agreement, pulled = self._pull(batches, stop)
            stopping, state.seconds = agreement.stopping, agreement.seconds
            self._one_step(agreement, pulled)
            self._after_step(last=stopping or self._complete, stopping=stopping)

    def _pull(self, batches: Iterator[Batch], stop: StopRequest) -> tuple[Agreement, list[Batch]]:
        waited = self._stream.waiting_seconds
        pulled: list[Batch] = []
        error: Exception | None = None
        try:
            pulled = [next(batches) for _ in range(self._config.accumulation)]
        except Exception as raised:
            error = raised
        self._waited = self._stream.waiting_seconds - waited
        agreement = agree(
            self._distributed,
            num_passes=num_passes(pulled),
            num_valid=num_valid_rows(pulled),
            stopping=stop.requested,
            seconds=self._clock() - self._began,
            error=error,
        )
        return agreement, pulled

    def _one_step(self, agreement: Agreement, pulled: list[Batch]) -> None:
        figures = self._step.run(pulled, agreement)
        self._meter.add(figures, self._waited)
        if self._on_batches is not None:
            self._on_batches(self._state.step, pulled)
        self._pacer.pace()

    def _after_step(self, *, last: bool, stopping: bool) -> None:
        step, config = self._state.step, self._config
        saves = last or step % config.checkpoint_every == 0
        # Before every save, too: figures are refused if they are not finite, and then nothing is saved.
        if saves or step % config.log_every == 0:
            figures = self._meter.figures(step) | {"training_seconds": self._state.seconds}
            if self._reporter is not None:
                self._reporter.training(step, figures)
        if saves:
            self._saver.save(self._state, step)
        began = time.perf_counter()
        for due in self._due:
            if step % due.every_steps == 0 or (last and not stopping):
                due.action()
        self._meter.pass_over(time.perf_counter() - began)


class Pacer:
    """Lets the host be one step ahead of the GPU and no further, so that its clock tells how long steps take."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: torch.cuda.Event | None = None

    def pace(self) -> None:
        """Waits until the step before the one just launched has ended."""
        if self._device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        if self._before is not None:
            self._before.synchronize()
        self._before = event
