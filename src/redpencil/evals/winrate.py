"""Win rates: how often A's answer beats B's, with intervals, lengths held equal, and by position.

A score is one number for each prompt: 1 where A wins, 0 where B wins, 1/2 for a tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from redpencil.types import Vote

RESAMPLES = 2_000
RIDGE = 1e-3
"""Of the regression's coefficients: keeps them finite where all wins are on one side. Against the
information of n prompts, about n/4, it is nothing."""

_NEWTON_STEPS = 60


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PositionBias:
    """What the place of an answer did to the votes of a judge.

    first: share of the votes, ties apart, for the answer that was shown first (1/2: no bias).
    consistent: share of the prompts on which both orders gave the same verdict. NaN without votes.
    """

    first: float
    consistent: float


def win_rate(scores: np.ndarray, *, seed: int = 0) -> Rate:
    """Mean score, ties counting one half. scores: (n,), n >= 1.

    The interval is the percentile bootstrap over prompts: 2.5 % and 97.5 % quantiles of the mean of
    n prompts drawn with replacement, over `RESAMPLES` draws.
    """
    scores = np.asarray(scores, dtype=np.float64)
    counts = _resampled(len(scores), seed)
    return _rate(float(scores.mean()), counts @ scores / len(scores))


def length_controlled_win_rate(
    scores: np.ndarray, length_a: np.ndarray, length_b: np.ndarray, *, seed: int = 0
) -> Rate:
    """The win rate that A would have if both answers were always of the same length.

    A logistic regression in the spirit of length-controlled AlpacaEval (Dubois et al. 2024),
    without its term for the difficulty of a prompt:

        P(A wins) = sigma(a + b tanh((length_a - length_b) / s)),   s = deviation of the differences

    fitted by maximum likelihood to the scores (a tie is half a win and half a loss), with a ridge
    penalty of RIDGE / 2 (a^2 + b^2). The result is sigma(a): the length term set to 0. Where no
    difference varies, b has no say and the result is the plain win rate. The interval is the
    percentile bootstrap over prompts, refitted on every draw with s kept.

    scores, length_a, length_b: (n,), lengths in any one unit.
    """
    scores = np.asarray(scores, dtype=np.float64)
    gap = np.asarray(length_a, dtype=np.float64) - np.asarray(length_b, dtype=np.float64)
    deviation = gap.std()
    if deviation == 0:
        return win_rate(scores, seed=seed)
    term = np.tanh(gap / deviation)
    counts = np.vstack([np.ones(len(scores)), _resampled(len(scores), seed)])
    at_equal_length = _sigmoid(_fit(scores, term, counts)[:, 0])
    return _rate(float(at_equal_length[0]), at_equal_length[1:])


def position_bias(votes: Sequence[tuple[Vote | None, Vote | None]]) -> PositionBias:
    """How much the place decided. votes: for each prompt with A shown first, and with B first.

    None is a reply without a verdict: it has no place, and its prompt counts as inconsistent.
    """
    flat = [vote for pair in votes for vote in pair]
    first, second = flat.count("first"), flat.count("second")
    same = sum(one is not None and other == _SWAPPED[one] for one, other in votes)
    return PositionBias(
        first=first / (first + second) if first + second else float("nan"),
        consistent=same / len(votes) if votes else float("nan"),
    )


_SWAPPED: dict[Vote, Vote] = {"first": "second", "second": "first", "tie": "tie"}
"""The same verdict, said of the answers in the other order."""


def _resampled(n: int, seed: int) -> np.ndarray:
    """(RESAMPLES, n): how often each prompt occurs in each draw of n with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES).astype(np.float64)


def _rate(value: float, drawn: np.ndarray) -> Rate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Rate(value, float(low), float(high))


def _fit(scores: np.ndarray, term: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(R, 2): (a, b) of the regression under each of R weightings of the n prompts.

    Newton's method on all R at once; a step that does not lower a penalised loss is halved.
    """
    coefficients = np.zeros((len(counts), 2))
    loss = _loss(coefficients, scores, term, counts)
    for _ in range(_NEWTON_STEPS):
        step = _newton_step(coefficients, scores, term, counts)
        if np.abs(step).max() < 1e-9:
            break
        for _ in range(30):
            moved = coefficients - step
            after = _loss(moved, scores, term, counts)
            worse = after > loss + 1e-12
            if not worse.any():
                break
            step[worse] /= 2
        coefficients, loss = moved, after
    return coefficients


def _newton_step(
    coefficients: np.ndarray, scores: np.ndarray, term: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """(R, 2): inverse Hessian times gradient of the penalised loss."""
    p = _sigmoid(coefficients[:, :1] + coefficients[:, 1:] * term)
    error, curvature = counts * (p - scores), counts * p * (1 - p)
    gradient = np.stack([error.sum(1), error @ term], axis=1) + RIDGE * coefficients
    aa = curvature.sum(1) + RIDGE
    ab = curvature @ term
    bb = curvature @ term**2 + RIDGE
    determinant = aa * bb - ab * ab
    a = (bb * gradient[:, 0] - ab * gradient[:, 1]) / determinant
    b = (aa * gradient[:, 1] - ab * gradient[:, 0]) / determinant
    return np.stack([a, b], axis=1)


def _loss(
    coefficients: np.ndarray, scores: np.ndarray, term: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """(R,): negative log-likelihood of the scores with the ridge penalty."""
    z = coefficients[:, :1] + coefficients[:, 1:] * term
    losses = np.logaddexp(0.0, z) - scores * z
    return (counts * losses).sum(1) + RIDGE / 2 * (coefficients**2).sum(1)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    half: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * z))
    return half
