"""The training loop: draw a batch, step, log, and call what is due. One loop for every stage."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

import torch
from torch import nn

from redpencil.console import progress_bar, warn
from redpencil.data.loader import Loader
from redpencil.engine.metrics import MetricsLog
from redpencil.engine.state import TrainState
from redpencil.engine.step import train_step
from redpencil.errors import Interrupted
from redpencil.optim import OptimConfig, learning_rate_at, set_learning_rate
from redpencil.types import Batch, Task


@dataclass(frozen=True, slots=True)
class Every:
    """Call `fn` after each `steps`-th update and after the last; it may return a changed state."""

    steps: int
    fn: Callable[[TrainState], TrainState]

    def due(self, step: int, last: int) -> bool:
        return step == last or step % self.steps == 0


def train(
    model: nn.Module,
    task: Task,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
    state: TrainState,
    *,
    total_steps: int,
    log: MetricsLog,
    hooks: tuple[Every, ...],
    on_stop: Callable[[TrainState], object],
    label: str,
) -> TrainState:
    """Train from `state` to `total_steps` updates. On SIGINT or SIGTERM: finish the step, call
    `on_stop`, raise Interrupted."""
    batches = loader.iterate(state.loader)
    with _stop_requests() as stop, progress_bar(extra="loss {task.fields[loss]}") as bar:
        row = bar.add_task(label, total=total_steps, completed=state.step, loss="–")
        while state.step < total_steps:
            batch, after = next(batches)
            begun = time.perf_counter()
            rate = learning_rate_at(state.step + 1, config, total_steps)
            set_learning_rate(optimizer, rate)
            means = train_step(model, optimizer, batch, task, max_grad_norm=config.max_grad_norm)
            metrics = dict(zip(means, torch.stack(list(means.values())).tolist(), strict=True))
            seconds = time.perf_counter() - begun
            speed = _speed(batch, seconds)
            epoch = state.loader.epoch + (after.drawn / len(loader.examples) or 1)
            state = replace(
                state, step=state.step + 1, loader=after, seconds=state.seconds + seconds
            )
            log.write(state.step, {"epoch": epoch, **metrics, "learning_rate": rate, **speed})
            bar.update(row, completed=state.step, loss=f"{metrics['loss']:.4f}")
            for hook in hooks:
                if hook.due(state.step, total_steps):
                    state = hook.fn(state)
            if stop.requested and state.step < total_steps:
                on_stop(state)
                raise Interrupted(f"{stop.requested} after step {state.step}; {RESUME_HINT}")
    return state


RESUME_HINT = "a checkpoint was saved: the same command goes on from there"


def _speed(batch: Batch, seconds: float) -> dict[str, float]:
    tokens = sum(len(m.input_ids) for m in batch.micro_batches)
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
