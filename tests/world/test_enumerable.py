import numpy as np
import pytest

from redpencil.world.enumerable import enumerable_world, optimum, preferences, sequence_kl


@pytest.fixture
def world():
    return enumerable_world(seed=3)


def test_everything_is_listed_once(world):
    assert len(world.prompts) == 3
    assert len(set(world.responses)) == len(world.responses) == 216
    assert world.reward.shape == world.reference.shape == (3, 216)
    np.testing.assert_allclose(world.reference.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(enumerable_world(3).reference, world.reference)


def test_optimum_by_hand():
    # pi_ref (1/2, 1/2), r (0, beta ln 3): Z = 1/2 + 3/2 = 2, pi* = (1/4, 3/4)
    beta = 0.7
    best = optimum(np.array([[0.5, 0.5]]), np.array([[0.0, beta * np.log(3)]]), beta)
    np.testing.assert_allclose(best.policy, [[0.25, 0.75]], rtol=1e-12)
    np.testing.assert_allclose(best.log_z, [np.log(2)], rtol=1e-12)
    np.testing.assert_allclose(best.kl, [0.25 * np.log(0.5) + 0.75 * np.log(1.5)], rtol=1e-12)
    np.testing.assert_allclose(best.reward, [0.75 * beta * np.log(3)], rtol=1e-12)


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_objective_at_the_optimum_is_beta_log_z_and_nothing_beats_it(world, beta):
    best = optimum(world.reference, world.reward, beta)
    value = best.reward - beta * best.kl
    np.testing.assert_allclose(value, beta * best.log_z, rtol=1e-10)
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = best.policy * np.exp(0.1 * rng.normal(size=best.policy.shape))
        other /= other.sum(axis=1, keepdims=True)
        kl = sequence_kl(other, world.reference)
        assert np.all((other * world.reward).sum(axis=1) - beta * kl < value)


def test_implicit_reward_of_the_optimum_is_the_reward_up_to_the_prompt(world):
    beta = 0.3
    best = optimum(world.reference, world.reward, beta)
    implicit = beta * (np.log(best.policy) - np.log(world.reference))
    np.testing.assert_allclose(np.ptp(implicit - world.reward, axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(preferences(implicit), preferences(world.reward), atol=1e-12)


def test_preferences_are_bradley_terry(world):
    chances = preferences(world.reward)
    np.testing.assert_allclose(chances + chances.transpose(0, 2, 1), 1.0, rtol=1e-12)
    gap = world.reward[1, 5] - world.reward[1, 77]
    assert chances[1, 5, 77] == pytest.approx(1 / (1 + np.exp(-gap)), rel=1e-12)


def test_impossible_responses_stay_impossible():
    best = optimum(np.array([[1.0, 0.0]]), np.array([[0.0, 100.0]]), 0.1)
    np.testing.assert_array_equal(best.policy, [[1.0, 0.0]])
    np.testing.assert_array_equal(best.kl, [0.0])
