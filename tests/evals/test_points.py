"""Points on the plane of reward against KL: by hand, and against a world where all is listed."""

import math
from itertools import combinations

import numpy as np
import pytest

from redpencil.evals.points import best_of_n, policy_point
from redpencil.world.enumerable import enumerable_world, optimum, sequence_kl

WORLD = enumerable_world(3)


def draw(policy: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(P, samples) indices of responses."""
    return np.stack([rng.choice(len(row), size=samples, p=row) for row in policy])


def test_a_policy_by_hand() -> None:
    """Rewards (1, 3) and (4, 8), log-ratios (0, 2) and (1, 1): means 2, 6 and 1, 1. Variances of
    the prompts' means: reward 2/2 and 8/2, KL 2/2 and 0, covariance 2/2 and 0; over P^2 = 4."""
    point = policy_point(np.array([[1, 3], [4, 8]]), np.array([[0, 2], [1, 1]]))
    assert point.reward_P.tolist() == [2, 6] and point.kl_P.tolist() == [1, 1]
    np.testing.assert_allclose(point.covariance, [[5 / 4, 1 / 4], [1 / 4, 1 / 4]])
    assert (point.reward.value, point.reward.within) == (4, math.sqrt(5 / 4))
    assert point.reward.total == pytest.approx(math.sqrt(8) / math.sqrt(2))
    assert (point.kl.value, point.kl.within, point.kl.total) == (1, 0.5, 0)


def test_an_error_that_cannot_be_told_is_nan() -> None:
    alone = policy_point(np.array([[1.0]]), np.array([[0.5]]))
    assert alone.reward.value == 1 and alone.kl.value == 0.5
    assert math.isnan(alone.reward.within) and math.isnan(alone.kl.total)
    everything = best_of_n(np.ones((1, 3)), np.ones((1, 3)), 3)
    assert everything.reward.value == 1 and math.isnan(everything.reward.within)


@pytest.mark.parametrize(
    "wrong", [np.array([1.0, 2.0]), np.array([[1.0, np.nan]]), np.ones((0, 3))]
)
def test_what_is_no_table_of_numbers_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        policy_point(wrong, wrong)


def test_sampled_kl_covers_the_exact_one() -> None:
    """Of 400 estimates 95 % lie within 1.96 standard errors, of reward and of KL."""
    rng = np.random.default_rng(0)
    policy = optimum(WORLD.reference, WORLD.reward, 0.4).policy
    log_ratio = np.log(policy / WORLD.reference)
    reward, kl = (policy * WORLD.reward).sum(1).mean(), sequence_kl(policy, WORLD.reference).mean()
    hits = np.zeros(2)
    for _ in range(400):
        y = draw(policy, 50, rng)
        point = policy_point(
            np.take_along_axis(WORLD.reward, y, 1), np.take_along_axis(log_ratio, y, 1)
        )
        hits[0] += abs(point.reward.value - reward) < 1.96 * point.reward.within
        hits[1] += abs(point.kl.value - kl) < 1.96 * point.kl.within
    assert np.all(hits / 400 > 0.92) and np.all(hits / 400 < 0.98), hits / 400


def test_best_of_n_by_hand() -> None:
    """Best of 2 of (5, 1, 3): pairs give 5, 5, 3, mean 13/3. Chosen by (1, 2, 3) instead: of the
    pairs the second is right once, the third twice: (1 + 3 + 3) / 3. KL ln 2 - 1/2."""
    rewards = np.array([[5.0, 1.0, 3.0]])
    assert best_of_n(rewards, rewards, 2).reward.value == pytest.approx(13 / 3)
    by_other = best_of_n(np.array([[1.0, 2.0, 3.0]]), rewards, 2)
    assert by_other.reward.value == pytest.approx(7 / 3)
    assert by_other.kl.value == pytest.approx(math.log(2) - 0.5) and by_other.kl.within == 0


def test_best_of_1_is_the_mean_and_of_all_the_best() -> None:
    rewards = np.random.default_rng(1).normal(size=(4, 7))
    one = best_of_n(rewards, rewards, 1)
    np.testing.assert_allclose(one.reward_P, rewards.mean(axis=1))
    np.testing.assert_allclose(one.kl_P, 0)
    plain = policy_point(rewards, rewards)
    assert one.reward.within == pytest.approx(plain.reward.within, rel=1e-12)
    np.testing.assert_allclose(best_of_n(rewards, rewards, 7).reward_P, rewards.max(axis=1))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_best_of_n_is_the_mean_over_all_subsets(n: int) -> None:
    """And its error is the jackknife's, both by listing."""
    rng = np.random.default_rng(n)
    select_by, rewards = rng.normal(size=(2, 3, 8))

    def listed(kept: list[int], p: int) -> float:
        picks = [max(s, key=lambda i: select_by[p, i]) for s in combinations(kept, n)]
        return float(np.mean(rewards[p, picks]))

    point = best_of_n(select_by, rewards, n)
    whole = [listed(list(range(8)), p) for p in range(3)]
    np.testing.assert_allclose(point.reward_P, whole, rtol=1e-12)
    without = np.array(
        [[listed([i for i in range(8) if i != j], p) for j in range(8)] for p in range(3)]
    )
    jackknife = 7 / 8 * ((without - without.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    assert point.reward.within == pytest.approx(math.sqrt(jackknife.sum()) / 3, rel=1e-10)


def exact_best_of_n(n: int) -> tuple[float, float]:
    """Expected reward and KL when the best of n is drawn from the world's reference: the response
    of rank i is the best with probability F_i^n - F_{i-1}^n, F its cumulative probability."""
    order = np.argsort(WORLD.reward, axis=1, kind="stable")
    rewards = np.take_along_axis(WORLD.reward, order, 1)
    reference = np.take_along_axis(WORLD.reference, order, 1)
    cumulative = np.minimum(np.cumsum(reference, axis=1), 1.0)
    best = np.diff(cumulative**n, axis=1, prepend=0.0)
    return float((best * rewards).sum(1).mean()), float(sequence_kl(best, reference).mean())


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_covers_the_exact_value_without_bias(n: int) -> None:
    rng = np.random.default_rng(n)
    reward, kl = exact_best_of_n(n)
    z = []
    for _ in range(300):
        r = np.take_along_axis(WORLD.reward, draw(WORLD.reference, 64, rng), 1)
        estimate = best_of_n(r, r, n).reward
        z.append((estimate.value - reward) / estimate.within)
    assert abs(np.mean(z)) < 0.3, np.mean(z)
    assert 0.91 < np.mean(np.abs(z) < 1.96) < 0.985
    assert 0 < kl < best_of_n(r, r, n).kl.value  # an upper bound: the reference repeats itself


def test_the_kl_of_best_of_n_is_met_where_nothing_repeats() -> None:
    """A reference of 100,000 equally likely responses: the exact KL is ln n - (n - 1) / n."""
    cumulative = np.arange(1, 100_001) / 100_000
    for n in (2, 8, 64):
        best = np.diff(cumulative**n, prepend=0.0)
        exact = float(np.sum(best * np.log(best * 100_000)))
        bound = best_of_n(np.ones((1, 64)), np.ones((1, 64)), n).kl.value
        assert exact == pytest.approx(bound, abs=1e-3) and exact < bound
