"""Calibration and length, by hand."""

import numpy as np
import pytest

from redpencil.evals.rewards import calibration, length_correlation
from redpencil.intervals import wilson_interval


def log_odds(p):
    return np.log(p / (1 - p))


def test_a_model_as_right_as_it_is_sure_has_no_error():
    # ten pairs it puts at 0.7: seven with the chosen ahead, three with the rejected ahead
    margins = np.array([log_odds(0.7)] * 7 + [-log_odds(0.7)] * 3)
    found = calibration(margins, np.ones(10))
    assert found["expected_error"] == pytest.approx(0, abs=1e-12)
    (row,) = found["bins"]
    assert (row["pairs"], row["predicted"], row["observed"]) == pytest.approx((10, 0.7, 0.7))


def test_the_error_weighs_bins_by_their_pairs():
    # two pairs at 0.95, both wrong: gap 0.95; six at 0.55, three right: gap 0.05
    margins = np.array([-log_odds(0.951)] * 2 + [log_odds(0.551)] * 3 + [-log_odds(0.551)] * 3)
    found = calibration(margins, np.ones(8))
    assert found["expected_error"] == pytest.approx((2 * 0.951 + 6 * 0.051) / 8)
    assert [r["pairs"] for r in found["bins"]] == [6, 2]


def test_doubtful_labels_and_ties():
    # the label says 0.8 for chosen; the model has rejected ahead: observed is 0.2
    found = calibration(np.array([-1e-9, 0.0]), np.array([0.8, 1.0]), bins=1)
    assert found["bins"][0]["observed"] == pytest.approx((0.2 + 0.5) / 2)


def test_correlation_with_length():
    lengths = np.array([1, 2, 3, 4])
    assert length_correlation(np.array([2.0, 4.0, 6.0, 8.0]), lengths) == pytest.approx(1)
    assert length_correlation(np.array([1.0, 0.0, 0.0, 1.0]), lengths) == pytest.approx(0)
    assert length_correlation(np.ones(4), lengths) is None


def test_wilson_interval_by_hand():
    # 85 of 120: centre (0.70833 + 0.016007) / 1.032013, half width 0.080...
    assert wilson_interval(85 / 120, 120) == pytest.approx([0.6215, 0.7822], abs=1e-4)
