"""From measured steps to a table: medians, and ratios taken step by step."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One answer of a worker. tokens: of all sequences, shared ones counted each time; slots: what
    the model was fed (distinct tokens, or padded sequences); peak_rss: bytes so far."""

    seconds: float
    loss: float
    grad_norm: float
    tokens: int
    slots: int
    peak_rss: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """A case: the timed steps of each contestant, the n-th on the same pairs for all.

    The contestant that stands first is the one that the others are compared with.
    """

    case: str
    what: str
    pairs: int
    steps: Mapping[str, Sequence[Step]]


HEADER = (
    "case", "contestant", "s/step", "pairs/s", "distinct tokens/s", "slots/distinct",
    "peak MB", "times slower (range)", "times the memory",
)  # fmt: skip


def rows(measurement: Measurement) -> list[tuple[str, ...]]:
    """A row for each contestant, under HEADER."""
    first = next(iter(measurement.steps.values()))
    return [
        (
            measurement.case,
            name,
            f"{statistics.median(s.seconds for s in steps):.3f}",
            f"{statistics.median(measurement.pairs / s.seconds for s in steps):.2f}",
            f"{_each(first, steps, lambda a, b: a.slots / b.seconds):,.0f}",
            f"{_each(first, steps, lambda a, b: b.slots / a.slots):.2f}",
            f"{steps[-1].peak_rss / 1e6:,.0f}",
            slower(first, steps),
            f"{steps[-1].peak_rss / first[-1].peak_rss:.2f}",
        )
        for name, steps in measurement.steps.items()
    ]


def slower(first: Sequence[Step], steps: Sequence[Step]) -> str:
    """Median of the ratios of seconds on the same pairs, with the least and the greatest."""
    ratios = [b.seconds / a.seconds for a, b in zip(first, steps, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def plain(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Columns for a terminal: the first two to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]

    def line(cells: Sequence[str]) -> str:
        placed = (
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(placed).rstrip()

    return "\n".join(map(line, (header, *body)))


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rule = ["---" if i < 2 else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *body))


def _each(
    first: Sequence[Step], steps: Sequence[Step], value: Callable[[Step, Step], float]
) -> float:
    """Median over the steps of a value that also needs the first contestant's same step."""
    return statistics.median(value(a, b) for a, b in zip(first, steps, strict=True))
