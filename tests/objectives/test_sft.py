"""Supervised fine-tuning: weighted negative log-likelihoods, nothing else."""

import torch

from redpencil.objectives import bind
from redpencil.types import Pairs, Scores


def no_pairs() -> Pairs:
    index, column = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    return Pairs(chosen=index, rejected=index, weight=column, margin=column, probability=column)


def test_by_hand() -> None:
    """-(-6) * 1 = 6 and -(-2) * 0.5 = 1; gradient -1 and -0.5."""
    pi = torch.tensor([-6.0, -2.0], requires_grad=True)
    scores = Scores(
        pi_logps=pi, ref_logps=None, lengths=torch.tensor([3, 2]), weights=torch.tensor([1.0, 0.5])
    )
    outcome = bind("sft")(scores, no_pairs())
    assert outcome.losses.tolist() == [6.0, 1.0]
    assert outcome.rewards is None
    outcome.losses.sum().backward()
    assert pi.grad.tolist() == [-1.0, -0.5]
