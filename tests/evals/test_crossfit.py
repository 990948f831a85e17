"""Cross-fitting: the optimum, folds that never part a prompt, antisymmetry, no leaks."""

import numpy as np
import pytest
import torch

from redpencil.evals.crossfit import cross_fit, fit, folds_by_key, scaled, stack


def toy(count=300, width=4, strength=3.0, seed=0, per_prompt=2):
    """Pairs whose label is drawn from sigma(d . w*): differences, w*, keys."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=width)
    truth *= strength / np.linalg.norm(truth)
    d = rng.normal(size=(count, width))
    wins = rng.random(count) < 1 / (1 + np.exp(-d @ truth))
    d[~wins] *= -1
    return d, truth, [f"prompt {i // per_prompt}" for i in range(count)]


def slow_loss(d, y, w, penalty):
    """The definition, pair by pair: cross-entropy with a soft label, and the penalty."""
    total = 0.0
    for row, target in zip(d, y, strict=True):
        p = 1 / (1 + np.exp(-row @ w))
        total -= target * np.log(p) + (1 - target) * np.log(1 - p)
    return total / len(y) + penalty / 2 * w @ w


@pytest.mark.parametrize("penalty", [1e-2, 1.0])
def test_the_fit_is_the_optimum_of_the_slow_loss(penalty):
    d, _, _ = toy(60)
    y = np.random.default_rng(1).uniform(size=60)
    w = fit(d, y, penalty)
    best = slow_loss(d, y, w, penalty)
    for i in range(d.shape[1]):
        step = np.eye(d.shape[1])[i] * 1e-3
        up, down = (slow_loss(d, y, w + s, penalty) for s in (step, -step))
        assert up > best and down > best
        assert abs(up - down) / 2e-3 < 1e-5  # the gradient of the definition vanishes


def test_newton_in_autograd_comes_to_the_same_weights():
    d, _, _ = toy(80)
    x, y = torch.from_numpy(d), torch.full((80,), 0.9, dtype=torch.float64)
    w = torch.zeros(4, dtype=torch.float64)

    def loss(w):
        m = x @ w
        return torch.nn.functional.binary_cross_entropy_with_logits(m, y) + 0.05 * w @ w

    for _ in range(30):
        gradient = torch.func.grad(loss)(w)
        w = w - torch.linalg.solve(torch.func.hessian(loss)(w), gradient)
    np.testing.assert_allclose(fit(d, y.numpy(), 0.1), w.numpy(), atol=1e-5)


def test_a_swapped_pair_with_the_other_probability_says_the_same():
    d, _, _ = toy(50)
    y = np.random.default_rng(2).uniform(size=50)
    swapped = np.arange(50) % 2 == 0
    sign = np.where(swapped, -1.0, 1.0)
    same = fit(d * sign[:, None], np.where(swapped, 1 - y, y), 0.1)
    np.testing.assert_allclose(same, fit(d, y, 0.1), atol=1e-6)


def test_swapping_chosen_and_rejected_turns_p_into_one_less_p():
    d, _, keys = toy()
    y = np.ones(len(d))
    one = cross_fit({"a": d}, y, keys)
    # All of one prompt's pairs are swapped and called false: the others are judged as before.
    at = np.array([k == "prompt 7" for k in keys])
    other = cross_fit({"a": np.where(at[:, None], -d, d)}, np.where(at, 0.0, y), keys)
    p, q = (1 / (1 + np.exp(-f.margins)) for f in (one, other))
    np.testing.assert_allclose(q[at], 1 - p[at], atol=1e-4)
    np.testing.assert_allclose(q[~at], p[~at], atol=1e-4)


def test_scaling_keeps_the_antisymmetry_and_drops_constants():
    d = np.random.default_rng(0).normal(size=(30, 3)) * [1, 100, 0]
    assert scaled(d).shape == (30, 2)
    np.testing.assert_array_equal(scaled(-d), -scaled(d))
    np.testing.assert_allclose((scaled(d) ** 2).mean(axis=0), 16 / 2)


@pytest.mark.parametrize("seed", range(5))
def test_no_prompt_is_parted_and_folds_are_even(seed):
    rng = np.random.default_rng(seed)
    keys = [f"p{i}" for i in rng.integers(0, 53, 400)]
    which = folds_by_key(keys, 5, seed)
    of = {}
    for key, fold in zip(keys, which, strict=True):
        assert of.setdefault(key, fold) == fold
    sizes = np.bincount(list(of.values()), minlength=5)
    assert sizes.max() - sizes.min() <= 1


def test_folds_do_not_depend_on_the_order_of_the_pairs():
    keys = [f"p{i % 40}" for i in range(200)]
    order = np.random.default_rng(0).permutation(200)
    shuffled = folds_by_key([keys[i] for i in order], 5, 3)
    np.testing.assert_array_equal(shuffled, folds_by_key(keys, 5, 3)[order])


def test_a_prompt_never_judges_itself():
    """A feature that names the prompt, and a label that goes with it, say nothing of other prompts:
    fitted on all pairs this is perfect, cross-fitted it is a coin toss."""
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(60), 4)
    d = np.zeros((240, 60))
    d[np.arange(240), prompts] = rng.choice([-1.0, 1.0], 60)[prompts]
    fitted = fit(d, np.ones(240), 1e-3)
    assert (d @ fitted > 0).all()
    found = cross_fit({"prompt": d}, np.ones(240), [str(p) for p in prompts])
    np.testing.assert_allclose(found.margins, 0.0, atol=1e-9)


def test_a_judge_of_noise_is_given_no_weight():
    d, _, keys = toy(600)
    noise = np.random.default_rng(5).normal(size=(600, 30))
    found = cross_fit({"good": d, "noise": noise}, np.ones(600), keys)
    assert found.weights["good"] > 0.5
    assert 0 <= found.weights["noise"] < 0.3
    alone = cross_fit({"good": d}, np.ones(600), keys)
    assert abs((found.margins > 0).mean() - (alone.margins > 0).mean()) < 0.02


def test_what_speaks_against_the_labels_is_left_out_of_the_sum():
    rng = np.random.default_rng(0)
    good, bad = rng.normal(0.5, 1.0, 500), rng.normal(-0.3, 1.0, 500)
    weights = stack(np.stack([good, bad], axis=1), np.ones(500))
    assert weights[0] > 0 and weights[1] == 0


def test_features_that_never_differ_give_no_opinion():
    found = cross_fit({"none": np.zeros((60, 3))}, np.ones(60), [str(i) for i in range(60)])
    np.testing.assert_array_equal(found.margins, 0.0)


def test_seeds_repeat():
    d, _, keys = toy()
    one, same, other = (cross_fit({"a": d}, np.ones(300), keys, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.margins, same.margins)
    assert (one.margins != other.margins).any()
