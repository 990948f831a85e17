"""The training loop: draw a batch, step, log, and call what is due. One loop for every stage."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Self

import torch
from torch import nn

from redpencil.console import say, warn
from redpencil.data.loader import BatchStream, LoaderState
from redpencil.data.prefetch import Closing, InTurn, Prefetched
from redpencil.engine.course import Course, Every
from redpencil.engine.memory import smaller_budget
from redpencil.engine.metrics import MetricsLog
from redpencil.engine.state import TrainState
from redpencil.engine.step import train_step
from redpencil.errors import Interrupted
from redpencil.models.memory import BatchTooLarge, release_cached_memory
from redpencil.optim import OptimConfig, learning_rate_at, set_learning_rate
from redpencil.types import Batch, Task


def train(
    model: nn.Module,
    task: Task,
    loader: BatchStream,
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
    state: TrainState,
    *,
    total_steps: int,
    log: MetricsLog,
    hooks: tuple[Every, ...],
    on_stop: Callable[[TrainState], object],
    label: str,
    log_every: int = 10,
) -> TrainState:
    """Train from `state` to `total_steps` updates. log_every: steps between lines about the loss,
    where no bar shows it. On SIGINT or SIGTERM: finish the step, call
    `on_stop`, raise Interrupted. A step that runs out of memory is computed anew from smaller
    micro-batches. Raises NonFiniteError, MemoryExceeded."""
    with (
        _stop_requests() as stop,
        Course(label, hooks, state.step, total_steps, log_every) as course,
        _Stream(loader, state, pin=next(model.parameters()).is_cuda) as stream,
    ):
        while state.step < total_steps:
            begun = time.perf_counter()
            batch, after = stream.draw()
            rate = learning_rate_at(state.step + 1, config, total_steps)
            set_learning_rate(optimizer, rate)
            ran_out = None
            try:
                metrics = train_step(
                    model, optimizer, batch, task, max_grad_norm=config.max_grad_norm
                )
            except BatchTooLarge as error:
                ran_out = str(error)
            if ran_out is not None:  # out here the failed step's activations are gone
                state = replace(state, max_tokens=stream.shrink(batch, state.loader, ran_out))
                continue
            seconds = time.perf_counter() - begun
            speed = _speed(batch, seconds)
            whole = after.epoch + after.drawn / len(loader.examples)
            epoch = state.loader.epoch + 1 if after.epoch > state.loader.epoch else whole
            state = replace(
                state, step=state.step + 1, loader=after, seconds=state.seconds + seconds
            )
            log.write(state.step, {"epoch": epoch, **metrics, "learning_rate": rate, **speed})
            course.stepped(state.step, {**metrics, **speed}, time.perf_counter() - begun)
            if after.used:  # the batch comes again; between its steps nothing could be resumed
                continue
            for hook in hooks:
                if hook.due(state.step, total_steps):
                    with course.calls(hook):
                        state = hook.fn(state)
            if stop.requested and state.step < total_steps:
                on_stop(state)
                raise Interrupted(f"{stop.requested} after step {state.step}; {RESUME_HINT}")
    return state


class _Stream:
    """The loader's batches from a state on, laid ahead of the steps; cut smaller once memory ran
    out. pin: into page-locked memory, for a GPU."""

    def __init__(self, loader: BatchStream, state: TrainState, *, pin: bool) -> None:
        if state.max_tokens is not None and state.max_tokens < loader.max_tokens:
            loader = loader.with_budget(state.max_tokens)
            say(
                f"memory    micro-batches of at most {state.max_tokens:,} tokens: it ran out before"
            )
        self._loader, self._pin = loader, pin
        self._batches = self._from(state.loader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._batches.close()

    def _from(self, state: LoaderState) -> Closing[tuple[Batch, LoaderState]]:
        batches = self._loader.iterate(state)
        finish = _pinned if self._pin else None
        return Prefetched(batches, finish) if self._loader.ahead else InTurn(batches, finish)

    def draw(self) -> tuple[Batch, LoaderState]:
        """The next batch, and the loader's state after it."""
        return next(self._batches)

    def shrink(self, batch: Batch, before: LoaderState, why: str) -> int:
        """Go back to the loader's state before `batch` with half the budget, and return that."""
        smaller = smaller_budget(batch, self._loader.max_tokens)
        warn(
            f"memory ran out ({why}): the step is computed anew from micro-batches of at most "
            f"{smaller:,} tokens, and so are those after it"
        )
        release_cached_memory()
        self._batches.close()
        self._loader = self._loader.with_budget(smaller)
        self._batches = self._from(before)
        return smaller


def _pinned(drawn: tuple[Batch, LoaderState]) -> tuple[Batch, LoaderState]:
    return drawn[0].pinned(), drawn[1]


RESUME_HINT = "a checkpoint was saved: the same command goes on from there"


def _speed(batch: Batch, seconds: float) -> dict[str, float]:
    tokens = sum(m.tokens for m in batch.micro_batches)
    speed = {"seconds": seconds, "tokens_per_second": tokens / seconds}
    pairs = batch.count("comparison")
    return {**speed, "pairs_per_second": pairs / seconds} if pairs else speed


@dataclass(slots=True)
class _Stop:
    requested: str | None = None


@contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Turn the first SIGINT or SIGTERM into a request; a second one interrupts at once."""
    stop = _Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = signal.Signals(number).name
        warn(f"{stop.requested}: stopping after this step; once more interrupts at once")

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread (a notebook's worker): signals stay as they are
        pass
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
