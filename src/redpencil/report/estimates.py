"""How sure a number is: intervals and standard errors, without NumPy or SciPy."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from redpencil.intervals import Z95, wilson_interval


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95 % interval. effective: how many independent pairs it is worth."""

    value: float
    low: float
    high: float
    count: int
    groups: int
    effective: float


def clustered_share(outcomes: Iterable[tuple[Hashable, float]]) -> Share:
    """The share of successes among (group, outcome in [0, 1]), with an honest interval.

    Pairs of one prompt share its responses, so they tell less than as many independent pairs. The
    design effect (cluster-robust variance over the binomial one, at least 1) shrinks the count
    that enters the Wilson interval. With all outcomes alike the groups are counted.
    """
    groups: dict[Hashable, list[float]] = {}
    for group, outcome in outcomes:
        groups.setdefault(group, []).append(outcome)
    count = sum(map(len, groups.values()))
    assert count, "no outcomes"
    share = sum(map(sum, groups.values())) / count
    effective = float(count)
    if len(groups) < count:
        effective = float(len(groups))
        spread = share * (1 - share)
        if spread > 0 and len(groups) > 1:
            squares = sum((sum(g) - share * len(g)) ** 2 for g in groups.values())
            robust = len(groups) / (len(groups) - 1) * squares / count**2
            effective = count / max(1.0, robust / (spread / count))
    low, high = wilson_interval(share, effective)
    return Share(share, low, high, count, len(groups), effective)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with half its 95 % interval; None where that cannot be told (a single group)."""

    value: float
    half: float | None = None

    def above(self, bound: float) -> bool:
        """Beyond chance, as far as chance is known."""
        return self.value - (self.half or 0.0) > bound

    def below(self, bound: float) -> bool:
        return self.value + (self.half or 0.0) < bound


def clustered_mean(outcomes: Iterable[tuple[Hashable, float]]) -> Mean | None:
    """The mean of (group, value), groups drawn at random; None of nothing."""
    groups: dict[Hashable, list[float]] = {}
    for group, value in outcomes:
        groups.setdefault(group, []).append(value)
    if not groups:
        return None
    values = [v for group in groups.values() for v in group]
    return Mean(mean(values), half_interval(list(groups.values())))


def half_interval(groups: Sequence[Sequence[float]]) -> float | None:
    """Half the 95 % interval of the mean over all values, groups drawn at random (cluster-robust);
    None for a single group."""
    total = sum(map(len, groups))
    if len(groups) < 2:
        return None
    centre = math.fsum(map(sum, groups)) / total
    squares = math.fsum((math.fsum(g) - centre * len(g)) ** 2 for g in groups)
    return Z95 * math.sqrt(len(groups) / (len(groups) - 1) * squares) / total


def mean(values: Sequence[float]) -> float:
    assert values, "mean of nothing"
    return math.fsum(values) / len(values)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error (infinite for a single value)."""
    centre = mean(values)
    if len(values) < 2:
        return centre, math.inf
    variance = math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1)
    return centre, math.sqrt(variance / len(values))
