"""Policies on the plane of reward against KL, with standard errors: any policy, and best of n.

Shapes: P prompts, M responses of each. KL in nats of whole responses.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over prompts with two standard errors.

    within: of the responses' sampling alone, the prompts held fixed (for comparing policies on the
    same prompts). total: the prompts being a sample too. NaN where it cannot be told (`within` from
    one response a prompt, `total` from one prompt).
    """

    value: float
    within: float
    total: float


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A policy on the plane of reward against KL.

    reward_P, kl_P: (P,) means over each prompt's responses. covariance: (2, 2) of the means of
    reward and KL over all prompts, the prompts held fixed.
    """

    reward_P: np.ndarray
    kl_P: np.ndarray
    covariance: np.ndarray

    @property
    def reward(self) -> Estimate:
        return estimate(self.reward_P, self.covariance[0, 0])

    @property
    def kl(self) -> Estimate:
        return estimate(self.kl_P, self.covariance[1, 1])


def policy_point(rewards: np.ndarray, kl: np.ndarray) -> Point:
    """A policy from its own samples: their rewards, and values whose mean over responses is
    KL(pi || pi_ref), both (P, M): `scores.divergence`, or log pi(y|x) - log pi_ref(y|x), which has
    the same mean, more chance in it, and may fall below 0.
    """
    rewards, kl = checked(rewards, kl)
    prompts, samples = rewards.shape
    both = np.stack([rewards, kl])
    both = both - both.mean(axis=2, keepdims=True)
    spread = np.einsum("apm,bpm->ab", both, both)
    freedom = samples * (samples - 1) * prompts**2
    covariance = spread / freedom if samples > 1 else np.full((2, 2), math.nan)
    return Point(rewards.mean(axis=1), kl.mean(axis=1), covariance)


def best_of_n(select_by: np.ndarray, rewards: np.ndarray, n: int) -> Point:
    """Best of n samples of the reference by `select_by`, valued by `rewards`; both (P, M), M >= n.

    The mean over all subsets of n among the M samples (an unbiased U-statistic): the i-th smallest
    by `select_by` is the best of C(i - 1, n - 1) of the C(M, n) subsets. Equal ones are told apart
    by their place, which is chance. Within prompts the error is the jackknife's, NaN for n = M.
    KL: log n - (n - 1) / n (Beirami et al. 2024, arXiv 2401.01879), an upper bound; it is met where
    two samples never tie, and stays above the truth where the reference repeats itself.
    """
    select_by, rewards = checked(select_by, rewards)
    prompts, samples = rewards.shape
    assert 1 <= n <= samples, (n, samples)
    order = np.argsort(select_by, axis=1, kind="stable")
    ranked = np.take_along_axis(rewards, order, axis=1)
    value_P = ranked @ _best_of_weights(samples, n)
    variance = math.nan
    if n < samples:
        fewer = _best_of_weights(samples - 1, n)
        below = np.cumsum(ranked[:, :-1] * fewer, axis=1)
        above = np.cumsum((ranked[:, 1:] * fewer)[:, ::-1], axis=1)[:, ::-1]
        without = np.pad(below, ((0, 0), (1, 0))) + np.pad(above, ((0, 0), (0, 1)))
        spread_P = np.var(without, axis=1) * (samples - 1)
        variance = float(np.mean(spread_P)) / prompts
    kl_P = np.full(prompts, math.log(n) - (n - 1) / n)
    return Point(value_P, kl_P, np.array([[variance, 0.0], [0.0, 0.0]]))


def _best_of_weights(samples: int, n: int) -> np.ndarray:
    subsets = math.comb(samples, n)
    return np.array([math.comb(i, n - 1) / subsets for i in range(samples)])


def estimate(values_P: np.ndarray, variance: float) -> Estimate:
    """The mean of (P,) values; variance: of that mean, the prompts held fixed."""
    prompts = len(values_P)
    total = float(np.std(values_P, ddof=1)) / math.sqrt(prompts) if prompts > 1 else math.nan
    return Estimate(float(np.mean(values_P)), math.sqrt(variance), total)


def checked(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, finite and of one shape (P, M)."""
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    assert first.ndim == 2 and first.shape == second.shape, (first.shape, second.shape)
    assert first.size, "at least one response to one prompt is needed"
    assert np.all(np.isfinite(first)) and np.all(np.isfinite(second)), "values must be finite"
    return first, second
