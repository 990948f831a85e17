"""Reward against KL: what a policy reached, the exact optimum, and the fraction between them.

The optimum at temperature beta is pi*(y|x) = pi_ref(y|x) exp(r(x, y) / beta) / Z(x) (paper Eq. 4).
It is known wherever the reference can be sampled and the reward computed: with M responses y_m of
the reference to a prompt, of weights v_m (1/M for plain samples),

    Z = sum_m v_m exp(r_m / beta),  w_m = v_m exp(r_m / beta) / Z,  E*[r] = sum_m w_m r_m,
    KL(pi* || pi_ref) = E*[r] / beta - log Z,

self-normalised importance sampling. All samples count alike, repeated responses included. With
beta common to all prompts, the best mean reward at a mean KL of k nats is, by duality,

    R*(k) = min over beta of  beta k + beta mean_x log Z(x),

so that, with k given, only the error of log Z matters: beta times the standard error of mean log Z,
whose variance is 1 / ESS - 1 / M in each prompt (ESS = 1 / sum_m w_m^2, effective samples).
log is concave: log Z comes out too small, by half that variance to leading order, and so does
R*(k). `optimum_at` adds this back; where it is large nothing is to be trusted, for what has not
been sampled cannot be weighted. Shapes: P prompts, M responses of each. KL in nats of sequences.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from redpencil.evals.points import Estimate, Point, checked, estimate

LEAST_EFFECTIVE_SAMPLES = 10.0
"""Harmonic mean of ESS over prompts below which an optimum is not trusted: there log Z is too small
by 1/20 nat to leading order, and the higher orders are no longer small beside it."""


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceSamples:
    """Responses of the reference with their rewards: what an optimum is computed from.

    rewards: (P, M). log_weights: (P, M), log v up to a constant a prompt. exact: responses are all
    there are, weighted by their probabilities, so nothing is uncertain but the choice of prompts.
    """

    rewards: np.ndarray
    log_weights: np.ndarray
    exact: bool

    @classmethod
    def drawn(cls, rewards: np.ndarray) -> Self:
        """Independent samples of the reference: rewards (P, M)."""
        return cls(*checked(rewards, np.zeros(np.shape(rewards))), exact=False)

    @classmethod
    def mixed(cls, rewards: np.ndarray, log_ratios: np.ndarray, shares: np.ndarray) -> Self:
        """Samples of the reference and of J tuned policies, weighted back to the reference.

        The reference alone shows KL up to about half of log M; policies that went further have
        seen what it hardly ever says. rewards: (P, M) of all samples of a prompt, whoever drew
        them. log_ratios: (J, P, M), log pi_j(y|x) - log pi_ref(y|x) of every sample under every
        policy. shares: (J,) parts of the M samples that each policy drew; the rest, above 0, is the
        reference's. Weights are those of the mixture (the balance heuristic), pi_ref / (sum of
        share x pi), and never above 1 / the reference's share. The standard errors take the samples
        as drawn from the mixture, which drawing fixed parts can only beat.
        """
        shares = np.asarray(shares, dtype=float)
        own = 1 - shares.sum()
        assert own > 0 and np.all(shares > 0), shares
        parts = np.log(shares)[:, None, None] + np.asarray(log_ratios, dtype=float)
        mixture = np.logaddexp.reduce([np.full(np.shape(rewards), np.log(own)), *parts])
        return cls(*checked(rewards, -mixture), exact=False)

    @classmethod
    def listed(cls, rewards: np.ndarray, probabilities: np.ndarray) -> Self:
        """Every response there is, with pi_ref(y|x) (P, M): what follows is exact."""
        rewards, probabilities = checked(rewards, probabilities)
        with np.errstate(divide="ignore"):
            return cls(rewards, np.log(probabilities), exact=True)

    @property
    def prior(self) -> np.ndarray:
        """v (P, M): the reference's own probabilities; each row sums to 1."""
        return _normalised(self.log_weights)[0]

    @property
    def mean_P(self) -> np.ndarray:
        """(P,) expected reward of the reference."""
        return np.sum(self.prior * self.rewards, axis=1)

    @property
    def largest_kl(self) -> float:
        """Mean KL of always giving the best response seen: no optimum computed here goes beyond."""
        possible = np.where(self.prior > 0, self.rewards, -np.inf)
        best = possible == possible.max(axis=1, keepdims=True)
        return float(np.mean(-np.log(np.sum(self.prior, axis=1, where=best))))


@dataclass(frozen=True, slots=True, eq=False)
class Optimum:
    """pi* at temperature beta.

    log_z_P, effective_samples_P: (P,) log Z(x) and ESS. log_z: mean of the former over prompts.
    log_z_bias: its bias to leading order (below 0, and 0 where the responses are listed).
    caveat: why it is not to be trusted, "" where it is.
    """

    beta: float
    point: Point
    log_z_P: np.ndarray
    log_z: Estimate
    log_z_bias: float
    effective_samples_P: np.ndarray
    caveat: str

    @property
    def trusted(self) -> bool:
        return not self.caveat


@dataclass(frozen=True, slots=True)
class OptimumAt:
    """The best that any policy does at a given KL, its bias to leading order taken out.

    reward: R*(kl). gain: over the reference's mean reward. bias: what was added to both. beta: the
    optimum's temperature there. All are NaN, and the caveat says why, where no optimum was found.
    """

    kl: float
    beta: float
    reward: Estimate
    gain: Estimate
    bias: float
    caveat: str

    @property
    def trusted(self) -> bool:
        return not self.caveat


@dataclass(frozen=True, slots=True)
class GainFraction:
    """How far a policy got: its gain over the reference, as a share of the optimum's at its KL."""

    fraction: Estimate
    optimum: OptimumAt


def importance_optimum(reference: ReferenceSamples, beta: float) -> Optimum:
    """pi* at temperature beta > 0, by self-normalised importance sampling (exact where listed).

    Standard errors are those of the linear terms (delta method).
    """
    assert beta > 0, beta
    prior, rewards = reference.prior, reference.rewards
    weights, log_z_P = _optimal_weights(reference, beta)
    reward_P = np.sum(weights * rewards, axis=1)
    toward = weights * (rewards - reward_P[:, None])
    log_z_terms = weights - prior
    covariance = _covariance(reference, toward, toward / beta - log_z_terms)
    variance_P = _variance_P(reference, log_z_terms)
    effective_P = 1 / np.sum(weights**2, axis=1)
    return Optimum(
        beta=beta,
        point=Point(reward_P, reward_P / beta - log_z_P, covariance),
        log_z_P=log_z_P,
        log_z=estimate(log_z_P, float(np.mean(variance_P)) / len(variance_P)),
        log_z_bias=-float(np.mean(variance_P)) / 2,
        effective_samples_P=effective_P,
        caveat="" if reference.exact else _caveat(effective_P),
    )


def optimum_frontier(reference: ReferenceSamples, betas: Iterable[float]) -> list[Optimum]:
    """The optimum at each temperature, in the order given: the curve no policy gets above."""
    return [importance_optimum(reference, beta) for beta in betas]


def optimum_at(reference: ReferenceSamples, kl: float) -> OptimumAt:
    """The optimum whose mean KL is `kl` nats, found by bisection over beta."""
    largest = reference.largest_kl
    if not 0 < kl < largest:
        nothing = Estimate(math.nan, math.nan, math.nan)
        caveat = (
            f"a KL of {kl:.3g} nats is not above 0"
            if not kl > 0
            else f"a KL of {kl:.3g} nats is beyond these samples of the reference, whose best "
            f"responses lie at {largest:.3g}"
        )
        return OptimumAt(kl, math.nan, nothing, nothing, math.nan, caveat)
    best = importance_optimum(reference, _temperature_at(reference, kl))
    beta, mean_P, prior = best.beta, reference.mean_P, reference.prior
    weights, _ = _optimal_weights(reference, beta)
    terms = beta * (weights - prior)
    gain_terms = terms - prior * (reference.rewards - mean_P[:, None])
    bias = -beta * best.log_z_bias
    at_kl_P = beta * (kl + best.log_z_P) + bias
    return OptimumAt(
        kl=kl,
        beta=beta,
        reward=estimate(at_kl_P, _covariance(reference, terms)[0, 0]),
        gain=estimate(at_kl_P - mean_P, _covariance(reference, gain_terms)[0, 0]),
        bias=bias,
        caveat=best.caveat,
    )


def gain_fraction(point: Point, reference: ReferenceSamples) -> GainFraction:
    """(E_pi[r] - E_ref[r]) / (R*(KL) - E_ref[r]) at the policy's own KL, with its errors.

    The samples of the policy and of the reference are taken to be independent, and to answer the
    same prompts in the same order. Errors are of first order, all correlations counted: at fixed
    prompts of the policy's reward and KL (the KL moves the optimum with slope beta) and of the
    reference's mean and log Z.
    """
    best = optimum_at(reference, point.kl.value)
    beta, gain, mean_P = best.beta, best.gain.value, reference.mean_P
    if not gain > 0:
        nothing = Estimate(math.nan, math.nan, math.nan)
        return GainFraction(nothing, best)
    share = float(point.reward_P.mean() - mean_P.mean()) / gain
    slope = np.array([1.0, -share * beta])
    weights, log_z_P = _optimal_weights(reference, beta)
    prior = reference.prior
    terms = -(1 - share) * prior * (reference.rewards - mean_P[:, None])
    terms -= share * beta * (weights - prior)
    within = slope @ point.covariance @ slope + _covariance(reference, terms)[0, 0]
    moves_P = point.reward_P - share * beta * (point.kl_P + log_z_P) - (1 - share) * mean_P
    total = estimate(moves_P, 0.0).total / gain
    return GainFraction(Estimate(share, math.sqrt(within) / gain, total), best)


def _temperature_at(reference: ReferenceSamples, kl: float) -> float:
    """beta at which the optimum's mean KL is `kl`; KL falls as beta grows."""
    low = high = float(np.std(reference.rewards))
    while _mean_kl(reference, low) < kl:
        low /= 2
    while _mean_kl(reference, high) > kl:
        high *= 2
    for _ in range(45):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _mean_kl(reference, middle) > kl else (low, middle)
    return high


def _mean_kl(reference: ReferenceSamples, beta: float) -> float:
    weights, log_z_P = _optimal_weights(reference, beta)
    return float(np.mean(np.sum(weights * reference.rewards, axis=1) / beta - log_z_P))


def _optimal_weights(reference: ReferenceSamples, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """w (P, M) and log Z (P,)."""
    _, total_P = _normalised(reference.log_weights)
    weights, log_sum_P = _normalised(reference.log_weights + reference.rewards / beta)
    return weights, log_sum_P - total_P


def _normalised(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as probabilities, and the logarithm of each row's sum."""
    log_sum_P = np.logaddexp.reduce(logs, axis=1)
    return np.exp(logs - log_sum_P[:, None]), log_sum_P


def _covariance(reference: ReferenceSamples, *terms: np.ndarray) -> np.ndarray:
    """Of the means over prompts of quantities whose error is, in each prompt, the sum of `terms`
    (P, M) over its samples; each row of terms sums to 0."""
    stacked = np.stack(terms)
    products = np.einsum("apm,bpm->abp", stacked, stacked)
    return np.mean(products, axis=2) * _freedom(reference) / len(reference.rewards)


def _variance_P(reference: ReferenceSamples, terms: np.ndarray) -> np.ndarray:
    return np.sum(terms**2, axis=1) * _freedom(reference)


def _freedom(reference: ReferenceSamples) -> float:
    """0 where responses are listed: there is no sampling error. Else the usual M / (M - 1)."""
    samples = reference.rewards.shape[1]
    if reference.exact:
        return 0.0
    return samples / (samples - 1) if samples > 1 else math.nan


def _caveat(effective_P: np.ndarray) -> str:
    harmonic = 1 / float(np.mean(1 / effective_P))
    if harmonic >= LEAST_EFFECTIVE_SAMPLES:
        return ""
    return (
        f"{harmonic:.1f} effective samples a prompt (harmonic mean), fewer than "
        f"{LEAST_EFFECTIVE_SAMPLES:.0f}: more samples of the reference are needed here"
    )
