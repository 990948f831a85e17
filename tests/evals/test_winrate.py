"""Win rates against numbers worked out by hand."""

import math

import numpy as np
import pytest

from redpencil.evals.winrate import length_controlled_win_rate, position_bias, win_rate


def test_ties_count_one_half():
    rate = win_rate(np.array([1, 1, 0.5, 0]))
    assert rate.value == 0.625
    assert rate.low < 0.625 < rate.high


def test_the_interval_is_that_of_the_binomial():
    """64 wins of 100: the bootstrap's deviation is sqrt(0.64 * 0.36 / 100) = 0.048, and 1.96 of
    them are 0.094."""
    rate = win_rate(np.array([1.0] * 64 + [0.0] * 36))
    assert rate.low == pytest.approx(0.64 - 0.094, abs=0.012)
    assert rate.high == pytest.approx(0.64 + 0.094, abs=0.012)


def test_the_interval_of_certainty_is_a_point_and_the_seed_decides():
    assert win_rate(np.ones(5)) == win_rate(np.ones(5), seed=1)
    assert (win_rate(np.ones(5)).low, win_rate(np.ones(5)).high) == (1.0, 1.0)
    scores = np.array([1.0, 0.0] * 40)
    assert win_rate(scores, seed=3) == win_rate(scores, seed=3)
    assert win_rate(scores, seed=3) != win_rate(scores, seed=4)


def groups(longer, shorter):
    """Scores and lengths: A wins so many of ten when it is longer, and when it is shorter."""
    scores = [1.0] * longer + [0.0] * (10 - longer) + [1.0] * shorter + [0.0] * (10 - shorter)
    return np.array(scores), np.array([9.0] * 10 + [5.0] * 10), np.array([5.0] * 10 + [9.0] * 10)


def test_length_controlled_by_hand():
    """Two groups fit exactly: logit p = a + b t and a - b t, so a is the mean of the logits.

    Longer wins 8 of 10 (logit ln 4), shorter 5 of 10 (logit 0): a = ln 2, sigma(a) = 2/3."""
    rate = length_controlled_win_rate(*groups(8, 5))
    assert rate.value == pytest.approx(2 / 3, abs=1e-4)
    assert win_rate(groups(8, 5)[0]).value == 0.65
    assert rate.low < 2 / 3 < rate.high


def test_wins_by_length_alone_are_worth_nothing():
    rate = length_controlled_win_rate(*groups(9, 1))
    assert rate.value == pytest.approx(0.5, abs=1e-9)


def test_a_win_by_length_alone_is_taken_away():
    """A is longer on 18 of 20 prompts, and the longer answer always wins but twice of ten."""
    scores = np.array([1.0] * 14 + [0.0] * 4 + [0.0, 0.0])
    long, short = np.full(20, 30.0), np.full(20, 20.0)
    a, b = long.copy(), short.copy()
    a[18:], b[18:] = 20.0, 30.0
    assert win_rate(scores).value == 0.7
    assert length_controlled_win_rate(scores, a, b).value < 0.5


def test_without_difference_in_length_it_is_the_plain_rate():
    scores = np.array([1.0, 0.5, 0.0, 1.0])
    lengths = np.array([4.0, 8.0, 1.0, 2.0])
    assert length_controlled_win_rate(scores, lengths, lengths - 1) == win_rate(scores)


@pytest.mark.parametrize("scores", [np.ones(12), np.zeros(12), np.repeat([1.0, 0.0], 6)])
def test_separated_wins_stay_finite(scores):
    """Maximum likelihood is at infinity here."""
    gap = np.repeat([3.0, -2.0], 6)
    rate = length_controlled_win_rate(scores, gap, np.zeros(12))
    assert all(math.isfinite(v) and 0 <= v <= 1 for v in (rate.value, rate.low, rate.high))
    if scores.std() == 0:
        assert abs(rate.value - scores.mean()) < 0.1
    else:  # by length alone: the border lies midway between -2 and 3, so equal lengths lose
        assert 0.2 < rate.value < 0.5


def test_position_bias():
    votes = [("first", "second"), ("first", "first"), (None, "tie"), ("tie", "tie")]
    bias = position_bias(votes)
    assert bias.first == 3 / 4  # of first, second, first, first
    assert bias.consistent == 2 / 4
    assert math.isnan(position_bias([]).first)
    assert math.isnan(position_bias([(None, "tie")]).first)
