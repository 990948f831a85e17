"""How sure a number is: intervals and standard errors, without NumPy or SciPy."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

Z95 = 1.959964
"""Two-sided 95 % point of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95 % interval. effective: how many independent pairs it is worth."""

    value: float
    low: float
    high: float
    count: int
    groups: int
    effective: float


def wilson(share: float, count: float) -> tuple[float, float]:
    """95 % interval of a share seen in `count` independent trials (Wilson 1927)."""
    assert 0 <= share <= 1 and count > 0, (share, count)
    z2 = Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


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
    low, high = wilson(share, effective)
    return Share(share, low, high, count, len(groups), effective)


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
