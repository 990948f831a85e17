"""Bradley-Terry on rewards, by hand."""

import math

import pytest
import torch

from redpencil.objectives.reward import bradley_terry, reward_statistics
from redpencil.types import Pairs

REWARDS = [1.0, -0.5, 2.0]


def sigma(x):
    return 1 / (1 + math.exp(-x))


def pairs(chosen, rejected, **columns):
    size = len(chosen)
    values = {
        "weight": [1.0] * size,
        "margin": [0.0] * size,
        "probability": [1.0] * size,
        **columns,
    }
    return Pairs(
        chosen=torch.tensor(chosen),
        rejected=torch.tensor(rejected),
        **{name: torch.tensor(value) for name, value in values.items()},
    )


def losses(made, rewards=REWARDS, **options):
    return bradley_terry(torch.tensor(rewards), made, **options).tolist()


def test_the_papers_equation_2():
    # r_w - r_l: 1.5 and -1.0
    expected = [-math.log(sigma(1.5)), -math.log(sigma(-1.0))]
    assert losses(pairs([0, 0], [1, 2])) == pytest.approx(expected)
    assert losses(pairs([0, 0], [1, 2]), rewards=[3.0, 3.0, 3.0]) == pytest.approx(
        [math.log(2)] * 2
    )


def test_a_margin_asks_for_a_lead():
    made = pairs([0], [1], margin=[2.0])
    assert losses(made) == pytest.approx([-math.log(sigma(1.5 - 2.0))])


def test_a_weight_multiplies():
    made = pairs([0, 2], [1, 0], weight=[3.0, 0.0])
    assert losses(made) == pytest.approx([-3 * math.log(sigma(1.5)), 0.0])


def test_doubt_counts_the_other_outcome_too():
    # p = 0.9 and eps = 0.1: q = 0.9 * 0.9 + 0.1 * 0.1 = 0.82
    expected = -0.82 * math.log(sigma(1.5)) - 0.18 * math.log(sigma(-1.5))
    made = pairs([0], [1], probability=[0.9])
    assert losses(made, label_smoothing=0.1) == pytest.approx([expected])


def test_doubt_has_its_minimum_at_the_log_odds():
    rewards = torch.tensor([0.0, 0.0], requires_grad=True)
    made = pairs([0], [1], probability=[0.8])
    for _ in range(400):
        (grad,) = torch.autograd.grad(bradley_terry(rewards, made).sum(), rewards)
        rewards = (rewards - grad).detach().requires_grad_()
    assert (rewards[0] - rewards[1]).item() == pytest.approx(math.log(0.8 / 0.2), abs=1e-4)


def test_centring_draws_the_middle_of_a_pair_to_zero():
    # pair (1.0, -0.5): + 0.1 * 0.5^2; pair (2.0, 1.0): + 0.1 * 3^2
    expected = [-math.log(sigma(1.5)) + 0.025, -math.log(sigma(1.0)) + 0.9]
    assert losses(pairs([0, 2], [1, 0]), centring=0.1) == pytest.approx(expected)


def test_the_gradient_presses_by_sigma_of_the_wrong_lead():
    rewards = torch.tensor(REWARDS, requires_grad=True)
    bradley_terry(rewards, pairs([0], [2])).sum().backward()
    press = sigma(2.0 - 1.0)  # sigma(r_l - r_w)
    assert rewards.grad.tolist() == pytest.approx([-press, 0.0, press])


def test_statistics_are_sums_and_ties_count_one_half():
    rewards = torch.tensor([1.0, -0.5, 1.0], requires_grad=True)
    made = pairs([0, 1, 0], [1, 0, 2])
    found = {name: value.item() for name, value in reward_statistics(rewards, made).items()}
    assert found == pytest.approx(
        {
            "rewards/chosen": 1.5,
            "rewards/rejected": 1.5,
            "rewards/margins": 0.0,
            "rewards/accuracies": 1.5,
        }
    )
    assert not any(v.requires_grad for v in reward_statistics(rewards, made).values())
