"""The course of a run: what is called every so many steps, and what is shown on the way."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from redpencil.console import clock, is_verbose, progress_bar, say, wants_lines
from redpencil.engine.state import TrainState
from redpencil.report.wording import fixed


@dataclass(frozen=True, slots=True)
class Every:
    """Call `fn` after each `steps`-th update and after the last; it may return a changed state."""

    steps: int
    fn: Callable[[TrainState], TrainState]

    seconds: float | None = None
    """That one call takes, where that is known before the first one."""

    def due(self, step: int, last: int) -> bool:
        return step == last or step % self.steps == 0

    def times(self, step: int, last: int) -> int:
        """How often it is due after `step`, up to the last one."""
        ahead = last // self.steps - step // self.steps
        return ahead + (1 if last % self.steps and step < last else 0)


class _Usual:
    """Seconds that something usually takes: the median of the latest times. The first steps, which
    compile and warm up, are soon forgotten."""

    def __init__(self, known: float | None = None) -> None:
        self._known = known
        self._latest: deque[float] = deque(maxlen=32)

    def add(self, seconds: float) -> None:
        self._latest.append(seconds)

    @property
    def value(self) -> float | None:
        return statistics.median(self._latest) if self._latest else self._known


class Course:
    """Shows how a run goes on: a bar, or a line each `log_every` steps with the means over them.

    The time left is that of the steps and of what is called between them, each by what it usually
    takes. A hook that was never called counts nothing: nobody knows.
    """

    SHOWN = ("loss", "rewards/accuracies", "rewards/margins", "reward", "kl")
    MORE = ("grad_norm", "tokens_per_second", "seconds")
    """When verbose."""

    def __init__(
        self, label: str, hooks: Sequence[Every], step: int, last: int, log_every: int
    ) -> None:
        self._label, self._begun, self._last, self._log_every = label, step, last, log_every
        self._step = _Usual()
        self._hooks = {id(hook): (hook, _Usual(hook.seconds)) for hook in hooks}
        self._seen: list[Mapping[str, float]] = []

    def __enter__(self) -> Self:
        self._bar = progress_bar(extra="loss {task.fields[loss]}")
        self._bar.__enter__()
        self._row = self._bar.add_task(
            self._label, total=self._last, completed=self._begun, loss="–", left=None
        )
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def stepped(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """After an update, before the hooks of its step."""
        self._step.add(seconds)
        left = self.left(step)
        self._bar.update(self._row, completed=step, loss=fixed(metrics["loss"]), left=left)
        if wants_lines():
            self._seen.append(metrics)
            if step % self._log_every == 0 or step == self._last:
                self._say(step, left)

    @contextmanager
    def calls(self, hook: Every) -> Iterator[None]:
        """Around a call of one of the hooks."""
        begun = time.perf_counter()
        yield
        self._hooks[id(hook)][1].add(time.perf_counter() - begun)

    def left(self, step: int) -> float:
        """Seconds from before the hooks of `step` to the end."""
        each = self._step.value or 0.0
        between = sum(
            (usual.value or 0.0) * hook.times(step - 1, self._last)
            for hook, usual in self._hooks.values()
        )
        return each * (self._last - step) + between

    def _say(self, step: int, left: float) -> None:
        names = [*self.SHOWN, *(self.MORE if is_verbose() else ())]
        told = "  ".join(
            f"{name} {sum(m[name] for m in self._seen) / len(self._seen):.4g}"
            for name in names
            if all(name in m for m in self._seen)
        )
        self._seen.clear()
        say(f"{self._label} {step:>6}/{self._last}  {told}  {clock(left)} left")
