"""The frontier as tables: the optimum's curve, each method's line, and how far it gets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redpencil.evals.frontier import ReferenceSamples, optimum_at
from redpencil.frontier_plan import METHODS
from redpencil.frontier_points import Dot

LEVELS = (0.5, 1.0, 2.0, 4.0)
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


def line(of_method: Sequence[Mean], start: float) -> list[tuple[float, float]]:
    """A method's frontier: (KL, reward) from the reference on, through those of its means that no
    other one of it surpasses in reward at a smaller KL."""
    found = [(0.0, start)]
    for mean in sorted(of_method, key=lambda m: m.kl):
        if mean.kl > found[-1][0] and mean.reward > found[-1][1]:
            found.append((mean.kl, mean.reward))
    return found


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
    grouped: Sequence[Mean], reference: ReferenceSamples, levels: Sequence[float] = LEVELS
) -> list[dict[str, Any]]:
    """For each method, the reward of its line at some KLs and the share of the optimum's gain that
    it is; the optimum itself is the first row."""
    start = float(reference.mean_P.mean())
    best = [optimum_at(reference, kl) for kl in levels]
    known = [math.isfinite(b.gain.value) and b.gain.value > 0 for b in best]
    rows = [
        {
            "method": "optimum",
            "at": [
                {"kl": kl, "reward": b.reward.value, "share": 1.0, "trusted": b.trusted}
                if is_known
                else None
                for kl, b, is_known in zip(levels, best, known, strict=True)
            ],
        }
    ]
    for method in dict.fromkeys(mean.method for mean in grouped):
        frontier = line([m for m in grouped if m.method == method], start)
        cells: list[dict[str, Any] | None] = []
        for kl, b, is_known in zip(levels, best, known, strict=True):
            reward = read_off(frontier, kl)
            if reward is None or not is_known:
                cells.append(None)
                continue
            share = (reward - start) / b.gain.value
            cells.append({"kl": kl, "reward": reward, "share": share, "trusted": b.trusted})
        rows.append({"method": method, "at": cells})
    return rows
