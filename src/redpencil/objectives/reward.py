"""The objective of a reward model: Bradley-Terry on rewards (paper Eq. 2)."""

import torch.nn.functional as F
from torch import Tensor

from redpencil.objectives.pairwise import sureness
from redpencil.types import Pairs


def bradley_terry(
    rewards: Tensor, pairs: Pairs, *, label_smoothing: float = 0.0, centring: float = 0.0
) -> Tensor:
    """Losses (T,), to be averaged over comparisons, from rewards (B,) of the responses.

    With z = r_w - r_l - m and q the probability that chosen beats rejected once labels may be
    flipped (label smoothing eps: q = p (1 - eps) + (1 - p) eps):

        loss = weight (-q log sigma(z) - (1 - q) log sigma(-z) + c (r_w + r_l)^2).

    With m = 0, q = 1 and c = 0 it is the paper's Eq. 2, -log sigma(r_w - r_l). Only differences
    of rewards are learned from comparisons; the centring term (c, `centring`) chooses among the
    rewards of one class those whose pairs are about zero in the middle.
    """
    assert rewards.ndim == 1, f"rewards must be (B,), got {tuple(rewards.shape)}"
    chosen, rejected = rewards[pairs.chosen], rewards[pairs.rejected]
    z = chosen - rejected - pairs.margin
    q = sureness(pairs, label_smoothing)
    losses = -q * F.logsigmoid(z) - (1 - q) * F.logsigmoid(-z)
    if centring:
        losses = losses + centring * (chosen + rejected).square()
    return pairs.weight * losses


def reward_statistics(rewards: Tensor, pairs: Pairs) -> dict[str, Tensor]:
    """Sums over the T comparisons, 0-d and detached. Equal rewards count one half in accuracies."""
    chosen = rewards.detach()[pairs.chosen]
    rejected = rewards.detach()[pairs.rejected]
    margins = chosen - rejected
    return {
        "rewards/chosen": chosen.sum(),
        "rewards/rejected": rejected.sum(),
        "rewards/margins": margins.sum(),
        "rewards/accuracies": ((1 + margins.sign()) / 2).sum(),
    }
