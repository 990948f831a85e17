"""Lines, means and the comparison, on points whose numbers are worked out by hand."""

import math

import numpy as np
import pytest

from redpencil.evals.frontier import ReferenceSamples, optimum_at
from redpencil.evals.points import policy_point
from redpencil.frontier.points import Dot, with_fractions
from redpencil.frontier.table import comparison, line, means, optimum_curve, read_off


def dot(kl, reward, *, method="dpo", strength=0.1, seed=0, step=10, final=True, fraction=0.5):
    return Dot(
        method=method,
        strength=strength,
        seed=seed,
        step=step,
        final=final,
        kl=kl,
        kl_stderr=0.1,
        reward=reward,
        reward_stderr=0.02,
        fraction=fraction,
        fraction_stderr=0.03,
    )


@pytest.fixture
def reference():
    """Four listed responses of equal probability: rewards 0, 0, 0, 1 for each of two prompts."""
    return ReferenceSamples.listed(np.array([[0.0, 0, 0, 1]] * 2), np.full((2, 4), 0.25))


def test_a_line_leaves_out_what_is_surpassed_nearer_the_reference():
    found = [dot(1, 0.5), dot(2, 0.4), dot(3, 0.9), dot(-0.1, 2.0), dot(0.5, -1)]
    assert line(found, start=0.1) == [(0.0, 0.1), (1, 0.5), (3, 0.9)]


def test_a_line_is_read_between_its_points_and_not_beyond():
    frontier = [(0.0, 0.0), (1.0, 0.5), (3.0, 0.9)]
    assert read_off(frontier, 0.5) == pytest.approx(0.25)
    assert read_off(frontier, 2.0) == pytest.approx(0.7)
    assert read_off(frontier, 3.1) is None


def test_means_are_over_seeds_with_their_spread():
    (mean,) = means([dot(1, 0.4, seed=0), dot(2, 0.6, seed=1), dot(3, 0.8, seed=2)])
    assert (mean.seeds, mean.kl, mean.reward) == (3, pytest.approx(2), pytest.approx(0.6))
    assert mean.kl_stderr == pytest.approx(1 / math.sqrt(3))
    assert mean.reward_stderr == pytest.approx(0.2 / math.sqrt(3))


def test_one_seed_has_the_error_of_its_sampling():
    (mean,) = means([dot(1, 0.4)])
    assert (mean.kl_stderr, mean.reward_stderr, mean.fraction_stderr) == (0.1, 0.02, 0.03)


def test_an_unknown_fraction_stays_unknown():
    (mean,) = means([dot(1, 0.4, fraction=math.nan), dot(1, 0.4, seed=1)])
    assert mean.fraction is None and mean.fraction_stderr is None
    assert dot(1, 0.4, fraction=math.nan).row()["fraction"] is None


def test_methods_strengths_and_steps_come_in_order():
    dots = [
        dot(1, 1, method="best-of-n", strength=2.0, step=None),
        dot(1, 1, strength=1.0),
        dot(1, 1, strength=0.1, step=20),
        dot(1, 1, strength=0.1, step=5),
    ]
    order = [(m.method, m.strength, m.step) for m in means(dots)]
    assert order == [("dpo", 0.1, 5), ("dpo", 0.1, 20), ("dpo", 1.0, 10), ("best-of-n", 2.0, None)]


def test_the_comparison_reads_each_seed_by_itself(reference):
    kl = 0.4
    best = optimum_at(reference, kl)
    dots = [dot(0.8, 0.45, seed=0), dot(0.4, 0.55, seed=1)]
    optimum, ours = comparison(dots, reference, levels=(kl, 0.6))
    assert optimum["at"][0]["share"] == pytest.approx(1)
    first, second = 0.25 + (0.45 - 0.25) / 2, 0.55
    cell = ours["at"][0]
    assert cell["reward"] == pytest.approx((first + second) / 2)
    assert cell["stderr"] == pytest.approx((second - first) / 2)
    assert cell["share"] == pytest.approx(((first + second) / 2 - 0.25) / best.gain.value)
    assert ours["at"][1] is None  # the second seed does not get there


def test_the_optimum_is_not_drawn_beyond_what_is_known(reference):
    curve = optimum_curve(reference, farthest=10.0)
    assert curve[-1]["kl"] < math.log(4)
    rewards = [row["reward"] for row in curve]
    assert rewards == sorted(rewards) and rewards[-1] < 1
    assert [row["kl"] for row in optimum_curve(reference, 0.2)][-1] == pytest.approx(0.2)


def test_the_optimum_itself_has_the_whole_fraction(reference):
    """At beta 0.5 the best response has e^2 / (3 + e^2) of the probability."""
    share = math.exp(2) / (3 + math.exp(2))
    ratios = np.log([(1 - share) / 3 / 0.25, share / 0.25])
    counts = [round(1000 * (1 - share)), round(1000 * share)]
    rewards = np.repeat([[0.0, 1.0]] * 2, counts, axis=1)
    point = policy_point(rewards, np.repeat([ratios] * 2, counts, axis=1))
    (found,) = with_fractions([(dot(point.kl.value, point.reward.value), point)], reference)
    assert found.fraction == pytest.approx(1, abs=2e-3)
    assert found.optimum == pytest.approx(share, abs=2e-3)
    assert found.caveat == ""
