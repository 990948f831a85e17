"""The optimum from samples against the enumerable world, where it is exact (paper Eq. 4)."""

import math

import numpy as np
import pytest

from redpencil.evals.frontier import (
    OptimumAt,
    ReferenceSamples,
    gain_fraction,
    importance_optimum,
    optimum_at,
    optimum_frontier,
)
from redpencil.evals.points import Point, policy_point
from redpencil.world.enumerable import enumerable_world, optimum, sequence_kl

WORLD = enumerable_world(3)
LISTED = ReferenceSamples.listed(WORLD.reward, WORLD.reference)
MEAN = float((WORLD.reference * WORLD.reward).sum(1).mean())


def draw(policy: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(P, samples) indices of responses."""
    return np.stack([rng.choice(len(row), size=samples, p=row) for row in policy])


def rewards_of(y: np.ndarray) -> np.ndarray:
    return np.take_along_axis(WORLD.reward, y, 1)


def drawn(samples: int, rng: np.random.Generator) -> ReferenceSamples:
    return ReferenceSamples.drawn(rewards_of(draw(WORLD.reference, samples, rng)))


def test_two_samples_by_hand() -> None:
    """r (0, beta ln 3): weights 1/4 and 3/4, Z = (1 + 3) / 2, ESS = 1 / (1/16 + 9/16) = 8/5."""
    beta = 0.7
    best = importance_optimum(ReferenceSamples.drawn(np.array([[0.0, beta * math.log(3)]])), beta)
    assert best.log_z.value == pytest.approx(math.log(2))
    assert best.point.reward.value == pytest.approx(0.75 * beta * math.log(3))
    assert best.point.kl.value == pytest.approx(0.75 * math.log(3) - math.log(2))
    assert best.effective_samples_P.tolist() == pytest.approx([1.6])
    # (1/ESS - 1/M) M/(M - 1) = (0.625 - 0.5) * 2 = 0.25
    assert best.log_z.within == pytest.approx(0.5)
    assert best.log_z_bias == pytest.approx(-0.125)
    assert not best.trusted and "1.6 effective samples" in best.caveat


@pytest.mark.parametrize("beta", [0.05, 0.2, 1.0, 5.0])
def test_listed_responses_are_exact(beta: float) -> None:
    exact = optimum(WORLD.reference, WORLD.reward, beta)
    best = importance_optimum(LISTED, beta)
    np.testing.assert_allclose(best.log_z_P, exact.log_z, rtol=1e-10)
    np.testing.assert_allclose(best.point.kl_P, exact.kl, rtol=1e-8)
    np.testing.assert_allclose(best.point.reward_P, exact.reward, rtol=1e-10)
    assert best.point.reward.within == best.log_z.within == best.log_z_bias == 0
    assert best.trusted


def test_a_constant_a_prompt_changes_nothing_but_the_reward() -> None:
    shift = np.array([[5.0], [-2.0], [0.0]])
    moved = ReferenceSamples.listed(WORLD.reward + shift, WORLD.reference)
    a, b = (optimum_at(reference, 1.5) for reference in (LISTED, moved))
    assert b.beta == pytest.approx(a.beta, rel=1e-9)
    assert b.gain.value == pytest.approx(a.gain.value, rel=1e-9)
    assert b.reward.value == pytest.approx(a.reward.value + 1.0, rel=1e-9)


def test_the_frontier_rises_and_bends_down() -> None:
    """dR*/dKL = beta: from one temperature to the next the slope lies between the two."""
    betas = np.geomspace(0.05, 5, 12)
    curve = optimum_frontier(LISTED, betas)
    assert [o.beta for o in curve] == betas.tolist()
    reward, kl = (np.array([getattr(o.point, k).value for o in curve]) for k in ("reward", "kl"))
    slopes = np.diff(reward) / np.diff(kl)
    assert np.all(slopes > betas[:-1]) and np.all(slopes < betas[1:])


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_the_optimum_at_its_own_kl_is_itself(beta: float) -> None:
    exact = optimum(WORLD.reference, WORLD.reward, beta)
    at = optimum_at(LISTED, float(exact.kl.mean()))
    assert at.beta == pytest.approx(beta, rel=1e-6)
    assert at.reward.value == pytest.approx(exact.reward.mean(), rel=1e-10)
    assert at.gain.value == pytest.approx(exact.reward.mean() - MEAN, rel=1e-10)
    assert at.bias == 0 and at.trusted


def test_no_policy_gets_above_it() -> None:
    rng = np.random.default_rng(0)
    best = optimum(WORLD.reference, WORLD.reward, 0.5)
    for size in (0.03, 0.3, 1.0):
        other = best.policy * np.exp(size * rng.normal(size=best.policy.shape))
        other /= other.sum(axis=1, keepdims=True)
        kl = float(sequence_kl(other, WORLD.reference).mean())
        assert (other * WORLD.reward).sum(1).mean() < optimum_at(LISTED, kl).reward.value


def repeated(samples: int, kl: float, seed: int) -> list[OptimumAt]:
    rng = np.random.default_rng(seed)
    return [optimum_at(drawn(samples, rng), kl) for _ in range(300)]


@pytest.mark.parametrize(("samples", "kl"), [(64, 0.3), (256, 1.0), (1024, 2.0), (1024, 3.0)])
def test_stated_errors_cover_the_exact_optimum(samples: int, kl: float) -> None:
    """Of 300 estimates about 95 % lie within 1.96 standard errors (a little less, for the estimated
    error of a skewed quantity), and what bias is left is small beside one of them."""
    exact = optimum_at(LISTED, kl)
    found = repeated(samples, kl, seed=samples)
    assert np.mean([f.trusted for f in found]) > 0.99
    misses = np.array([f.gain.value - exact.gain.value for f in found])
    errors = np.array([f.gain.within for f in found])
    assert 0.9 < np.mean(np.abs(misses) < 1.96 * errors) < 0.985
    assert abs(misses.mean()) < 0.25 * errors.mean()
    assert errors.mean() == pytest.approx(misses.std(), rel=0.15)
    inside = [abs(f.reward.value - exact.reward.value) < 1.96 * f.reward.within for f in found]
    assert 0.9 < np.mean(inside) < 0.985


def test_uncorrected_it_is_too_low() -> None:
    """log Z comes out too small, and the stated bias is how much."""
    exact = optimum_at(LISTED, 1.0).gain.value
    found = repeated(128, 1.0, seed=5)
    bias = float(np.mean([f.bias for f in found]))
    plain = float(np.mean([f.gain.value - f.bias for f in found])) - exact
    assert bias > 0 and plain < -0.5 * bias
    assert abs(plain + bias) < 0.5 * bias


def test_too_few_samples_are_not_trusted() -> None:
    """At KL 3 nats 64 samples of the reference say little, and they know it: what they would
    answer is far too low, and every such answer carries its caveat or is none."""
    found = repeated(64, 3.0, seed=1)
    assert not any(f.trusted for f in found)
    assert all("effective samples" in f.caveat or "beyond these samples" in f.caveat for f in found)
    for f in found:
        assert math.isnan(f.gain.value) == ("beyond" in f.caveat)


@pytest.mark.parametrize("kl", [0.0, -0.1, 50.0, math.nan])
def test_where_there_is_no_optimum_there_is_no_number(kl: float) -> None:
    at = optimum_at(LISTED, kl)
    assert math.isnan(at.reward.value) and math.isnan(at.gain.value) and not at.trusted
    assert "nats" in at.caveat


def test_equal_rewards_leave_nothing_to_gain() -> None:
    flat = ReferenceSamples.drawn(np.ones((2, 20)))
    assert flat.largest_kl == pytest.approx(0, abs=1e-12)
    assert not optimum_at(flat, 0.5).trusted


def mixed(samples: int, tuned: list[np.ndarray], rng: np.random.Generator) -> ReferenceSamples:
    """Equal parts of the reference and of each tuned policy."""
    policies = [WORLD.reference, *tuned]
    y = np.concatenate([draw(p, samples // len(policies), rng) for p in policies], axis=1)
    ratios = [np.take_along_axis(np.log(p / WORLD.reference), y, 1) for p in tuned]
    shares = np.full(len(tuned), 1 / len(policies))
    return ReferenceSamples.mixed(rewards_of(y), np.stack(ratios), shares)


@pytest.mark.parametrize("kl", [0.5, 2.0, 4.0])
def test_samples_of_tuned_policies_reach_further(kl: float) -> None:
    """96 samples, a third each of the reference and of two policies that went after another
    reward: to be trusted at 4 nats, where 96 of the reference are not."""
    rng = np.random.default_rng(7)
    skewed = WORLD.reward + 0.3 * np.sin(np.arange(216))
    tuned = [optimum(WORLD.reference, skewed, beta).policy for beta in (0.3, 0.1)]
    exact = optimum_at(LISTED, kl).gain.value
    found = [optimum_at(mixed(96, tuned, rng), kl) for _ in range(300)]
    assert all(f.trusted for f in found)
    z = np.array([(f.gain.value - exact) / f.gain.within for f in found])
    assert 0.9 < np.mean(np.abs(z) < 1.96) < 0.985 and abs(z.mean()) < 0.25
    assert kl < 4 or not any(optimum_at(drawn(96, rng), kl).trusted for _ in range(50))


def test_a_mixture_of_the_reference_with_itself_is_the_reference() -> None:
    rewards = np.random.default_rng(0).normal(size=(3, 40))
    twice = ReferenceSamples.mixed(rewards, np.zeros((1, 3, 40)), np.array([0.5]))
    a, b = (importance_optimum(r, 1.0) for r in (ReferenceSamples.drawn(rewards), twice))
    np.testing.assert_allclose(b.point.reward_P, a.point.reward_P, rtol=1e-12)
    np.testing.assert_allclose(b.point.covariance, a.point.covariance, rtol=1e-12)


def test_errors_at_one_temperature_cover_reward_and_kl() -> None:
    rng = np.random.default_rng(2)
    exact = optimum(WORLD.reference, WORLD.reward, 0.6)
    points = [importance_optimum(drawn(400, rng), 0.6).point for _ in range(300)]
    for name, truth in (("reward", exact.reward.mean()), ("kl", exact.kl.mean())):
        found = [getattr(p, name) for p in points]
        assert 0.9 < np.mean([abs(f.value - truth) < 1.96 * f.within for f in found]) < 0.985
    covariance = np.cov([p.reward.value for p in points], [p.kl.value for p in points])
    np.testing.assert_allclose(
        np.mean([p.covariance for p in points], axis=0), covariance, rtol=0.25
    )


def test_the_error_over_prompts_covers_a_world_of_many() -> None:
    """Prompts are drawn too: 30 of a world of 400, whose rewards differ in size and level."""
    rng = np.random.default_rng(4)
    levels, sizes = rng.normal(size=(400, 1)), rng.uniform(0.5, 1.5, size=(400, 1))
    table = levels + sizes * WORLD.reward[0]
    reference = np.tile(WORLD.reference[0], (400, 1))
    exact = optimum_at(ReferenceSamples.listed(table, reference), 1.0)
    hits = {"reward": 0, "gain": 0}
    for _ in range(300):
        picked = rng.choice(400, size=30, replace=False)
        y = draw(reference[picked], 128, rng)
        at = optimum_at(ReferenceSamples.drawn(np.take_along_axis(table[picked], y, 1)), 1.0)
        for name in hits:
            found, truth = getattr(at, name), getattr(exact, name).value
            hits[name] += abs(found.value - truth) < 1.96 * found.total
    assert all(0.9 < h / 300 < 0.99 for h in hits.values()), hits


def test_the_optimum_reaches_all_of_its_gain_and_the_reference_none() -> None:
    best = importance_optimum(LISTED, 0.3).point
    whole = gain_fraction(best, LISTED)
    assert whole.fraction.value == pytest.approx(1.0, abs=1e-9)
    assert whole.fraction.within == pytest.approx(0.0, abs=1e-9)
    idle = Point(LISTED.mean_P, np.ones(3), np.zeros((2, 2)))  # a KL of 1 for nothing
    assert gain_fraction(idle, LISTED).fraction.value == pytest.approx(0.0, abs=1e-12)


def test_a_fraction_by_exact_numbers() -> None:
    """Half-way between reference and optimum in probability: half of the gain, at less KL."""
    half = (optimum(WORLD.reference, WORLD.reward, 0.3).policy + WORLD.reference) / 2
    kl = sequence_kl(half, WORLD.reference)
    point = Point((half * WORLD.reward).sum(1), kl, np.zeros((2, 2)))
    reached = gain_fraction(point, LISTED)
    expected = (point.reward.value - MEAN) / optimum_at(LISTED, float(kl.mean())).gain.value
    assert reached.fraction.value == pytest.approx(expected) and 0.5 < expected < 0.9
    assert reached.optimum.kl == kl.mean()


def test_the_error_of_a_fraction_covers() -> None:
    """A policy short of the optimum, sampled beside the reference 300 times."""
    rng = np.random.default_rng(11)
    policy = 0.6 * optimum(WORLD.reference, WORLD.reward, 0.3).policy + 0.4 * WORLD.reference
    ratio = np.log(policy / WORLD.reference)
    kl = float(sequence_kl(policy, WORLD.reference).mean())
    exact = ((policy * WORLD.reward).sum(1).mean() - MEAN) / optimum_at(LISTED, kl).gain.value
    z = []
    for _ in range(300):
        y = draw(policy, 200, rng)
        point = policy_point(rewards_of(y), np.take_along_axis(ratio, y, 1))
        reached = gain_fraction(point, drawn(400, rng)).fraction
        z.append((reached.value - exact) / reached.within)
    assert 0.9 < np.mean(np.abs(z) < 1.96) < 0.985 and abs(np.mean(z)) < 0.25


def test_no_fraction_where_no_optimum_is_known() -> None:
    rng = np.random.default_rng(0)
    far = policy_point(np.ones((3, 4)), np.full((3, 4), 30.0))
    reached = gain_fraction(far, drawn(50, rng))
    assert math.isnan(reached.fraction.value) and "beyond these samples" in reached.optimum.caveat
