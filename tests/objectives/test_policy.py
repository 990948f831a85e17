"""PPO's surrogate, the critic's loss and both kinds of advantage, by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redpencil.objectives.policy import (
    clipped_surrogate,
    generalized_advantages,
    leave_one_out,
    token_rewards,
    value_loss,
)


def test_clipped_surrogate_by_hand():
    """Ratios 1, 1.5, 1.5, 0.5, 0.5 at clip 0.2; what would gain beyond the clip gains no more, what
    loses is felt whole."""
    old = torch.zeros(5)
    new = torch.tensor([1.0, 1.5, 1.5, 0.5, 0.5]).log().requires_grad_()
    advantages = torch.tensor([2.0, 2.0, -2.0, 2.0, -2.0])
    losses = clipped_surrogate(new, old, advantages, 0.2)
    assert losses.tolist() == pytest.approx([-2.0, -2.4, 3.0, -1.0, 1.6])
    losses.sum().backward()
    assert new.grad.tolist() == pytest.approx([-2.0, 0.0, 3.0, -1.0, 0.0])


def test_at_the_policy_that_drew_it_is_the_policy_gradient():
    """-A grad log pi, whatever the clip."""
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logps = logits.log_softmax(-1)[torch.arange(4), torch.tensor([0, 5, 2, 2])]
    advantages = torch.tensor([1.0, -0.5, 0.25, 2.0])
    (expected,) = torch.autograd.grad(-(advantages * logps).sum(), logits, retain_graph=True)
    losses = clipped_surrogate(logps, logps.detach(), advantages, 0.1)
    (found,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(found, expected)


def test_value_loss_by_hand():
    losses = value_loss(torch.tensor([1.5, 0.9]), torch.tensor([2.0, 2.0]))
    assert losses.tolist() == pytest.approx([0.5**2 / 2, 1.1**2 / 2])


def test_token_rewards_add_up_to_the_objective():
    """r = 2, beta = 0.5, log ratios 0.2 and -0.4: tokens earn -0.1 and 0.2 + 2."""
    pi, ref = np.array([-1.0, -2.0], np.float32), np.array([-1.2, -1.6], np.float32)
    found = token_rewards(2.0, pi, ref, 0.5)
    assert found.tolist() == pytest.approx([-0.1, 2.2], abs=1e-6)
    assert found.sum() == pytest.approx(2.0 - 0.5 * (pi - ref).sum())


def test_leave_one_out_by_hand():
    """1, 2, 6: the others' means are 4, 3.5 and 1.5."""
    assert leave_one_out(np.array([1.0, 2.0, 6.0])).tolist() == pytest.approx([-3, -1.5, 4.5])
    with pytest.raises(AssertionError, match="two responses"):
        leave_one_out(np.array([1.0]))


def test_generalized_advantages_by_hand():
    """Rewards 1, 0, 3; values 0.5, 1, 2; lambda 0.5.

    deltas: 1 + 1 - 0.5 = 1.5, 0 + 2 - 1 = 1, 3 + 0 - 2 = 1; A: 1, 1.5, 2.25 from the end.
    """
    rewards, values = np.array([1.0, 0.0, 3.0]), np.array([0.5, 1.0, 2.0])
    advantages, returns = generalized_advantages(rewards, values, 0.5)
    assert advantages.tolist() == pytest.approx([2.25, 1.5, 1.0])
    assert returns.tolist() == pytest.approx([2.75, 2.5, 3.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.integers(0, 1000))
def test_lambda_one_returns_what_was_earned_from_there_on(earned, seed):
    rewards = np.array(earned)
    values = np.random.default_rng(seed).normal(size=len(earned))
    advantages, returns = generalized_advantages(rewards, values, 1.0)
    np.testing.assert_allclose(returns, rewards[::-1].cumsum()[::-1], atol=1e-9)
    np.testing.assert_allclose(advantages, returns - values, atol=1e-9)


def test_leave_one_out_is_unbiased():
    """Over all draws of two responses from three, weighted by their probability, the leave-one-out
    gradient of E[r] is the exact one: p_i (r_i - E[r])."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    rewards = np.array([1.0, -2.0, 0.5])
    p = logits.softmax(-1)
    exact = (p * (torch.tensor(rewards) - (p * torch.tensor(rewards)).sum())).detach()
    total = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            logps = logits.log_softmax(-1)[[i, j]]
            advantages = torch.tensor(leave_one_out(rewards[[i, j]]))
            loss = clipped_surrogate(logps, logps.detach(), advantages, 0.2).mean()
            (grad,) = torch.autograd.grad(loss, logits)
            total -= p[i].item() * p[j].item() * grad
    torch.testing.assert_close(total, exact)
    assert math.isclose(float(total.sum()), 0, abs_tol=1e-12)
