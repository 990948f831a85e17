"""A world so small that every response can be listed: everything about it is exact.

Three prompts, each with all 216 responses of three words. Rewards are known, so Z(x), the optimum
pi*(y|x) = pi_ref(y|x) exp(r(x, y) / beta) / Z(x) (paper Eq. 4) and every Bradley-Terry preference
are sums over a table, not estimates. Shapes: P prompts, Y responses of each.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

PROMPTS = ("the plot", "the cast", "the music")
ADVERBS = ("never", "hardly", "slightly", "fairly", "very", "truly")
ADJECTIVES = ("dreadful", "dull", "plain", "decent", "witty", "superb")
VERDICTS = ("skip", "borrow", "rent", "see", "buy", "cherish")

_FACTOR = dict(zip(ADVERBS, (-0.6, -0.3, 0.5, 0.8, 1.2, 1.4), strict=True))
_VALUE = dict(zip(ADJECTIVES, (-1.5, -0.8, 0.0, 0.3, 0.9, 1.5), strict=True))
_ADVICE = dict(zip(VERDICTS, (-1.0, -0.4, 0.0, 0.4, 0.7, 1.0), strict=True))
_TASTE = dict(zip(PROMPTS, (1.0, 0.7, 0.4), strict=True))


@dataclass(frozen=True, slots=True)
class EnumerableWorld:
    """Prompts, the responses all of them share, and tables over both.

    reward: (P, Y) float64. reference: (P, Y) float64, positive rows that sum to 1.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    reward: np.ndarray
    reference: np.ndarray


@dataclass(frozen=True, slots=True)
class Optimum:
    """The exact solution of max E[r] - beta KL(pi || pi_ref), for each prompt.

    policy: (P, Y). log_z: (P,) logarithm of the normaliser Z(x). kl: (P,) KL(policy || reference)
    in nats. reward: (P,) expected reward. For each prompt reward - beta * kl = beta * log_z.
    """

    policy: np.ndarray
    log_z: np.ndarray
    kl: np.ndarray
    reward: np.ndarray


def enumerable_world(seed: int) -> EnumerableWorld:
    """The world: rewards are fixed, the reference is a random positive distribution by `seed`."""
    triples = list(product(ADVERBS, ADJECTIVES, VERDICTS))
    said = np.array([_FACTOR[adverb] * _VALUE[adjective] for adverb, adjective, _ in triples])
    advice = np.array([_ADVICE[verdict] for *_, verdict in triples])
    taste = np.array([_TASTE[prompt] for prompt in PROMPTS])
    reward = taste[:, None] * said + (1 - taste[:, None] / 2) * advice
    rng = np.random.default_rng(seed)
    reference = np.exp(rng.normal(size=reward.shape))
    return EnumerableWorld(
        prompts=PROMPTS,
        responses=tuple(" ".join(triple) for triple in triples),
        reward=reward,
        reference=reference / reference.sum(axis=1, keepdims=True),
    )


def preferences(reward: np.ndarray) -> np.ndarray:
    """Exact Bradley-Terry probabilities (paper Eq. 1): (P, Y) -> (P, Y, Y), first beats second."""
    gap = reward[:, :, None] - reward[:, None, :]
    return np.exp(-np.logaddexp(0.0, -gap))


def optimum(pi_ref: np.ndarray, reward: np.ndarray, beta: float) -> Optimum:
    """The best policy at temperature `beta` > 0 (paper Eq. 4), from (P, Y) tables.

    A response that the reference cannot give, the optimum cannot give either.
    """
    assert beta > 0, beta
    assert pi_ref.shape == reward.shape, (pi_ref.shape, reward.shape)
    with np.errstate(divide="ignore"):
        scores = np.log(pi_ref) + reward / beta
    log_z = np.logaddexp.reduce(scores, axis=-1)
    policy = np.exp(scores - log_z[..., None])
    return Optimum(
        policy, log_z, sequence_kl(policy, pi_ref), np.sum(policy * reward, axis=-1, dtype=float)
    )


def sequence_kl(policy: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """KL(policy || reference) in nats for each row: (P, Y), (P, Y) -> (P,). 0 log 0 = 0."""
    ratio = np.log(policy, where=policy > 0, out=np.zeros_like(policy))
    ratio -= np.log(reference, where=policy > 0, out=np.zeros_like(policy))
    return np.sum(policy * ratio, axis=-1)
