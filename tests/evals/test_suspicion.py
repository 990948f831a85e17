"""Wrong labels: their rate, which they are, and silence where nothing can be said."""

import numpy as np
import pytest

from redpencil.evals import suspicion as module
from redpencil.evals.crossfit import cross_fit
from redpencil.evals.suspicion import right_given, suspicion


def world(count, rate, *, strength, seed, width=6):
    """Differences with labels by sigma(d . w*), some flipped: (as labelled, flipped, m*, keys)."""
    rng = np.random.default_rng(seed)
    truth = np.ones(width) * strength / width**0.5
    d = rng.normal(size=(count, width))
    wins = rng.random(count) < 1 / (1 + np.exp(-d @ truth))
    flipped = rng.random(count) < rate
    d[wins == flipped] *= -1
    return d, flipped, d @ truth, [str(i) for i in range(count)]


def judged(d, keys, seed=0):
    y = np.ones(len(d))
    return suspicion(cross_fit({"d": d}, y, keys, seed=seed).margins, y, keys, seed=seed)


def test_bayes_rule_by_hand():
    # sigma(ln 3) = 3/4 and 1 label in 10 flipped: 0.9 * 0.75 / (0.9 * 0.75 + 0.1 * 0.25)
    right = right_given(np.array([np.log(3.0)]), 0.1, 1.0)
    assert right[0] == pytest.approx(0.675 / 0.7)
    # Swapped: 0.9 * 0.25 / (0.9 * 0.25 + 0.1 * 0.75)
    assert right_given(np.array([-np.log(3.0)]), 0.1, 1.0)[0] == pytest.approx(0.225 / 0.3)
    assert right_given(np.array([-50.0]), 0.0, 1.0)[0] == 1.0  # nothing is flipped


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_planted_flips_are_found_as_well_as_the_truth_would(rate):
    """The bound: on the pairs that are named, the share of flips that Bayes' rule expects with the
    true weights and the true rate, less three standard errors."""
    d, flipped, m, keys = world(2000, rate, strength=6.0, seed=3)
    found = judged(d, keys)
    named = found.suspects
    expected = 1 - right_given(m[named], rate, 1.0)
    error = np.sqrt((expected * (1 - expected)).sum()) / len(named)
    assert flipped[named].mean() > expected.mean() - 3 * error
    assert flipped[named].mean() > 0.5
    best = right_given(m, rate, 1.0) < 0.5
    assert flipped[named].sum() > 0.6 * flipped[best].sum()
    assert found.rate_interval[0] - 0.01 <= rate <= found.rate_interval[1] + 0.01
    assert found.cautious_rate <= found.rate
    assert abs(found.expected_precision - flipped[named].mean()) < 0.15


@pytest.mark.parametrize("strength", [1.5, 6.0])
def test_clean_labels_have_few_suspects(strength):
    d, _, _, keys = world(2000, 0.0, strength=strength, seed=1)
    assert len(judged(d, keys).suspects) <= 5


@pytest.mark.parametrize("seed", range(4))
def test_pure_noise_has_none(seed):
    d = np.random.default_rng(seed).normal(size=(600, 20))
    found = judged(d, [str(i) for i in range(600)], seed)
    assert len(found.suspects) == 0 and found.expected_precision is None
    assert "chance" in found.refusal


def test_a_weak_model_names_none_and_says_that_it_is_weak():
    d, _, _, keys = world(4000, 0.0, strength=0.5, seed=2)
    found = judged(d, keys)
    assert 0.5 < found.interval[0] < 0.6
    assert "hardly more than a coin toss" in found.refusal
    assert len(found.suspects) == 0


def test_all_resamples_in_one_product_is_the_likelihood_one_by_one():
    rng = np.random.default_rng(0)
    m, y = rng.normal(size=40), rng.uniform(size=40)  # fewer pairs than bins: nothing is rounded
    which, middle = module._bins(m)
    sums = module._sums(np.ones(40), y, y, which)
    all_of_them = module._likelihoods(sums[None, 1], sums[None, 2], middle)[0]
    e, a = module.RATES[7], module.SCALES[20]
    q = e + (1 - 2 * e) / (1 + np.exp(-a * m))
    assert all_of_them[7, 20] == pytest.approx((y * np.log(q) + (1 - y) * np.log(1 - q)).sum())


def test_intervals_know_that_pairs_of_a_prompt_go_together():
    rng = np.random.default_rng(0)
    by_prompt = np.repeat(rng.normal(1.0, 2.0, 100), 6)
    together = suspicion(by_prompt, np.ones(600), [str(i // 6) for i in range(600)])
    alone = suspicion(by_prompt, np.ones(600), [str(i) for i in range(600)])
    wide, narrow = (f.interval[1] - f.interval[0] for f in (together, alone))
    assert wide > 1.8 * narrow


def test_soft_labels_count_by_their_probability():
    found = suspicion(
        np.array([1.0, -1.0, 0.0] * 30), np.full(90, 0.8), [str(i) for i in range(90)]
    )
    assert found.accuracy == pytest.approx((0.8 + 0.2 + 0.5) / 3)
