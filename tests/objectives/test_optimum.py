"""On a world small enough to write down, DPO reaches pi_ref exp(r / beta) / Z (paper Eq. 4)."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from redpencil.objectives import bind
from redpencil.types import Pairs, Scores

REWARD = torch.tensor([1.5, -0.5, 0.0, 2.0, -1.0, 0.7], dtype=torch.float64)
REFERENCE = torch.tensor([0.30, 0.25, 0.20, 0.05, 0.15, 0.05], dtype=torch.float64)


def world_pairs() -> Pairs:
    """All 15 pairs with their exact Bradley-Terry probabilities sigma(r_a - r_b) [1]."""
    a, b = map(torch.tensor, zip(*combinations(range(6), 2), strict=True))
    ones = torch.ones(15, dtype=torch.float64)
    probability = torch.sigmoid(REWARD[a] - REWARD[b])
    return Pairs(chosen=a, rejected=b, weight=ones, margin=0 * ones, probability=probability)


def minimise(loss: object, pairs: Pairs) -> Tensor:
    """The tabular softmax policy (6,) at which the mean loss is least, from the reference."""
    logits = REFERENCE.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=0.0,  # the default stops at a total variation of 1e-6
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = Scores(
            pi_logps=torch.log_softmax(logits, 0),
            ref_logps=REFERENCE.log(),
            lengths=torch.ones(6, dtype=torch.int64),
            weights=torch.ones(6),
        )
        mean = loss(scores, pairs).losses.mean()
        mean.backward()
        return mean

    optimizer.step(closure)
    return torch.softmax(logits.detach(), 0)


def total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum() / 2)


@pytest.mark.parametrize("beta", [0.25, 0.5, 1.0, 5.0])
def test_dpo_reaches_the_closed_form_optimum(beta: float) -> None:
    unnormalised = REFERENCE * (REWARD / beta).exp()
    optimum = unnormalised / unnormalised.sum()
    policy = minimise(bind("dpo", beta=beta), world_pairs())
    assert total_variation(policy, optimum) < 1e-6
    assert total_variation(REFERENCE, optimum) > 0.05  # there was a way to go


def test_smoothing_flattens_the_optimum() -> None:
    """Negative control: with smoothed labels the solution stops short of the optimum."""
    unnormalised = REFERENCE * (REWARD / 0.5).exp()
    optimum = unnormalised / unnormalised.sum()
    policy = minimise(bind("dpo", beta=0.5, label_smoothing=0.2), world_pairs())
    assert total_variation(policy, optimum) > 0.05


def test_margins_shift_the_reward() -> None:
    """Asking a lead of s_a - s_b in every pair is the optimum of the reward r + s."""
    beta, pairs = 0.5, world_pairs()
    s = torch.tensor([0.2, 0.4, -0.3, 0.0, 1.0, -0.6], dtype=torch.float64)
    asking = Pairs(
        chosen=pairs.chosen,
        rejected=pairs.rejected,
        weight=pairs.weight,
        margin=s[pairs.chosen] - s[pairs.rejected],
        probability=pairs.probability,
    )
    unnormalised = REFERENCE * ((REWARD + s) / beta).exp()
    policy = minimise(bind("dpo", beta=beta), asking)
    assert total_variation(policy, unnormalised / unnormalised.sum()) < 1e-6
