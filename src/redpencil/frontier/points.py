"""From the jobs' results to points on the plane of reward against KL, and the optimum above them.

P held-out prefixes, the same for all; M completions of each. KL in nats a review. Standard errors
are those of the completions' sampling with the prefixes held fixed, as all are measured on the
same ones.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from redpencil.evals.frontier import ReferenceSamples, gain_fraction
from redpencil.evals.points import Point, best_of_n, policy_point
from redpencil.frontier.folder import FrontierFolder
from redpencil.frontier.plan import PARTS
from redpencil.world.settings import FrontierSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One policy, measured. strength: beta, alpha or n of its method.

    fraction: of the optimum's gain at the same KL, NaN where none is known there; caveat: why that
    optimum is not to be trusted, "" where it is. final: the end of a run, or no run at all.
    fluent: share of its texts that read as reviews; tokens: mean length (None for best of n).
    """

    method: str
    strength: float | None
    seed: int
    step: int | None
    final: bool
    kl: float
    kl_stderr: float
    reward: float
    reward_stderr: float
    fraction: float = math.nan
    fraction_stderr: float = math.nan
    optimum: float = math.nan
    caveat: str = ""
    fluent: float | None = None
    tokens: float | None = None

    def row(self) -> dict[str, Any]:
        """For JSON, which knows no NaN."""
        return {k: None if _is_nan(v) else v for k, v in asdict(self).items()}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def reference_samples(folder: FrontierFolder, settings: FrontierSettings) -> ReferenceSamples:
    """What the optimum is computed from: completions of the reference and of the proposals."""
    parts = sorted(folder.results("optimum"), key=lambda r: r["part"])
    rewards = _interleaved([np.array(r["rewards"]) for r in parts])
    names = parts[0]["proposals"]
    if not names:
        return ReferenceSamples.drawn(rewards)
    ratios = [
        _interleaved([np.array(r["log_ratios"][j]) for r in parts]) for j in range(len(names))
    ]
    share = settings.proposal_completions / rewards.shape[1]
    return ReferenceSamples.mixed(rewards, np.stack(ratios), np.full(len(names), share))


def choose_proposals(folder: FrontierFolder, count: int) -> list[str]:
    """Trained policies that reach what the reference hardly ever says: of those that no other
    surpasses in reward at a smaller KL, `count` from the nearest to the farthest."""
    last = {r["name"]: policy_point(*measured(r["points"][-1])) for r in folder.results("policy")}
    by_kl = sorted(last, key=lambda name: last[name].kl.value)
    best, unsurpassed = -math.inf, []
    for name in by_kl:
        if last[name].reward.value > best:
            best = last[name].reward.value
            unsurpassed.append(name)
    if len(unsurpassed) <= count:
        return unsurpassed
    places = np.linspace(0, len(unsurpassed) - 1, count + 1)[1:].round().astype(int)
    return [unsurpassed[i] for i in dict.fromkeys(places.tolist())]


def trained_dots(folder: FrontierFolder) -> list[tuple[Dot, Point]]:
    """Every look at every run."""
    found = []
    for result in folder.results("policy"):
        for look in result["points"]:
            point = policy_point(*measured(look))
            dot = _dot(point, result["method"], result["strength"], result["seed"])
            facts = {"step": look["step"], "final": look["final"]}
            dot = replace(dot, **facts, fluent=look["fluent"], tokens=look["tokens"])
            found.append((dot, point))
    return found


def best_of_n_dots(
    folder: FrontierFolder, settings: FrontierSettings, methods: Sequence[str]
) -> list[tuple[Dot, Point]]:
    """Best of n among the reference's completions, by each seed's reward model and by the truth."""
    samples = sorted(folder.results("samples"), key=lambda r: r["part"])
    truth = _interleaved([np.array(r["rewards"]) for r in samples])
    judges = [("best-of-n-truth", 0, truth)] if "best-of-n-truth" in methods else []
    if "best-of-n" in methods:
        for result in folder.results("ranking"):
            learned = _interleaved([np.array(r) for r in result["rewards"]])
            judges.append(("best-of-n", result["seed"], learned))
    found = []
    for method, seed, judge in judges:
        for n in settings.best_of:
            point = best_of_n(judge, truth, n)
            found.append((_dot(point, method, float(n), seed), point))
    return found


def with_fractions(found: Iterable[tuple[Dot, Point]], reference: ReferenceSamples) -> list[Dot]:
    """Dots with the share of the optimum's gain that they reach at their KL."""
    dots = []
    for dot, point in found:
        share = gain_fraction(point, reference)
        dots.append(
            replace(
                dot,
                fraction=share.fraction.value,
                fraction_stderr=share.fraction.within,
                optimum=share.optimum.reward.value,
                caveat=share.optimum.caveat,
            )
        )
    return dots


def _dot(point: Point, method: str, strength: float | None, seed: int) -> Dot:
    return Dot(
        method=method,
        strength=strength,
        seed=seed,
        step=None,
        final=True,
        kl=point.kl.value,
        kl_stderr=point.kl.within,
        reward=point.reward.value,
        reward_stderr=point.reward.within,
    )


def measured(look: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and KL of a look at a run, (P, M). Older folders hold log-ratios instead of the KL,
    which have the same mean."""
    return np.array(look["rewards"]), np.array(look.get("kl", look.get("log_ratios")))


def _interleaved(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of the parts in the order of the prefixes, which were dealt out one by one."""
    assert len(parts) == PARTS, len(parts)
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]))
    for part, rows in enumerate(parts):
        whole[part::PARTS] = rows
    return whole
