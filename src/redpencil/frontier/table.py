"""The frontier as tables: the optimum's curve, each method's line, and how far it gets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redpencil.evals.frontier import OptimumAt, ReferenceSamples, optimum_at
from redpencil.frontier.plan import METHODS
from redpencil.frontier.points import Dot

LEVELS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""KL in nats at which methods are compared."""

CURVE = 60
"""Points of the optimum's curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """The dots of one strength and step over all seeds. spread: standard errors of the means, over
    seeds (of the sampling where there is one seed)."""

    method: str
    strength: float | None
    step: int | None
    final: bool
    seeds: int
    kl: float
    kl_stderr: float
    reward: float
    reward_stderr: float
    fraction: float | None
    fraction_stderr: float | None
    trusted: bool
    fluent: float | None
    tokens: float | None


def means(dots: Sequence[Dot]) -> list[Mean]:
    """Over seeds, in the order of the methods, strengths and steps."""
    groups: dict[tuple[str, float | None, int | None], list[Dot]] = {}
    for dot in dots:
        groups.setdefault((dot.method, dot.strength, dot.step), []).append(dot)
    order = {name: i for i, name in enumerate(METHODS)}
    return [
        _mean(group)
        for _, group in sorted(
            groups.items(), key=lambda g: (order[g[0][0]], g[0][1] or 0.0, g[0][2] or 0)
        )
    ]


def _mean(group: Sequence[Dot]) -> Mean:
    first = group[0]
    kl, kl_stderr = _over([d.kl for d in group], first.kl_stderr)
    reward, reward_stderr = _over([d.reward for d in group], first.reward_stderr)
    fraction, fraction_stderr = _over([d.fraction for d in group], first.fraction_stderr)
    known = math.isfinite(fraction)
    fluent = [d.fluent for d in group if d.fluent is not None]
    tokens = [d.tokens for d in group if d.tokens is not None]
    return Mean(
        method=first.method,
        strength=first.strength,
        step=first.step,
        final=first.final,
        seeds=len(group),
        kl=kl,
        kl_stderr=_finite(kl_stderr) or 0.0,
        reward=reward,
        reward_stderr=_finite(reward_stderr) or 0.0,
        fraction=fraction if known else None,
        fraction_stderr=_finite(fraction_stderr) if known else None,
        trusted=all(not d.caveat for d in group),
        fluent=float(np.mean(fluent)) if fluent else None,
        tokens=float(np.mean(tokens)) if tokens else None,
    )


def _over(values: Sequence[float], alone: float) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], alone
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def line(found: Sequence[Dot] | Sequence[Mean], start: float) -> list[tuple[float, float]]:
    """A frontier: (KL, reward) from the reference on, through those that no other one surpasses
    in reward at a smaller KL."""
    best = [(0.0, start)]
    for kl, reward in sorted((each.kl, each.reward) for each in found):
        if kl > best[-1][0] and reward > best[-1][1]:
            best.append((kl, reward))
    return best


def read_off(frontier: Sequence[tuple[float, float]], kl: float) -> float | None:
    """The reward of a frontier at a KL, between its points; None beyond its last one."""
    if kl > frontier[-1][0]:
        return None
    return float(np.interp(kl, *np.array(frontier).T))


def optimum_curve(reference: ReferenceSamples, farthest: float) -> list[dict[str, Any]]:
    """The optimum at KLs up to `farthest` or as far as the samples tell, with standard errors."""
    rows = []
    end = min(farthest, 0.98 * reference.largest_kl)
    for kl in np.linspace(0, math.sqrt(end), CURVE + 1)[1:] ** 2:  # dense where it bends
        best = optimum_at(reference, float(kl))
        if not math.isfinite(best.reward.value):
            break
        rows.append(
            {
                "kl": float(kl),
                "beta": best.beta,
                "reward": best.reward.value,
                "stderr": best.reward.within,
                "bias": best.bias,
                "trusted": best.trusted,
            }
        )
    return rows


def comparison(
    dots: Sequence[Dot], reference: ReferenceSamples, levels: Sequence[float] = LEVELS
) -> list[dict[str, Any]]:
    """For each method, the reward of its lines at some KLs and the share of the optimum's gain that
    it is; the optimum itself is the first row. None where a seed's line does not reach.

    A seed has a line of its own; standard errors are over seeds, or of the sampling where there is
    one seed. A straight piece is what drawing each answer from one of its two ends by lot would
    reach at least: the reward of such a mixture is linear in its share, and its KL is convex.
    """
    start = float(reference.mean_P.mean())
    best = [optimum_at(reference, kl) for kl in levels]
    optimum = [
        _cell(b.kl, b.reward.value, b.reward.within, b, start) if b.gain.value > 0 else None
        for b in best
    ]
    rows: list[dict[str, Any]] = [{"method": "optimum", "at": optimum}]
    for method in dict.fromkeys(dot.method for dot in dots):
        of_method = [dot for dot in dots if dot.method == method]
        cells = []
        for b in best:
            reward, stderr = _at(of_method, start, b.kl)
            known = reward is not None and b.gain.value > 0
            cells.append(_cell(b.kl, reward or 0.0, stderr, b, start) if known else None)
        rows.append({"method": method, "at": cells})
    return rows


def _at(of_method: Sequence[Dot], start: float, kl: float) -> tuple[float | None, float]:
    """Reward at a KL, and its standard error."""
    seeds = sorted({dot.seed for dot in of_method})
    lines = [line([dot for dot in of_method if dot.seed == seed], start) for seed in seeds]
    found = [read_off(each, kl) for each in lines]
    known = [reward for reward in found if reward is not None]
    if len(known) < len(found):
        return None, math.nan
    nearest = min(of_method, key=lambda dot: abs(dot.kl - kl))
    return _over(known, nearest.reward_stderr)


def _cell(kl: float, reward: float, stderr: float, best: OptimumAt, start: float) -> dict[str, Any]:
    gain = best.gain.value
    return {
        "kl": kl,
        "reward": reward,
        "stderr": _finite(stderr) or 0.0,
        "share": (reward - start) / gain,
        "share_stderr": (_finite(stderr) or 0.0) / gain,
        "trusted": best.trusted,
    }
