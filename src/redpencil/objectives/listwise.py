"""Objectives over rankings: DPO under the Plackett-Luce model (paper, appendix A.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from redpencil.objectives.pairwise import implicit_rewards, log_ratio_lead
from redpencil.types import Outcome, Pairs, Scores


def plackett_luce(scores: Scores, pairs: Pairs, *, beta: float) -> Outcome:
    """DPO for K ranked responses (paper Eq. 20): the ranking is K - 1 choices of the best that is
    left, and each choice costs

        -log(exp rhat_w / (exp rhat_w + sum over the l that w beats of exp rhat_l)).

    A choice is a response together with all it beats: where every two responses of a prompt are
    compared and no comparison contradicts another, that is the best and what remains after it, and
    the sum over choices is minus the logarithm of Eq. 20. Other comparisons need no special case.
    Tied last: the choice among them is left out, as it was not observed. Tied first: each is
    chosen over what all of them beat. A lone pair: one choice of two, which is `dpo` with q = 1.

    A margin asks a lead over that loser, exp(rhat_l + m); a choice weighs as much as its
    comparisons do on average. Returns losses (B,), 0 for a response that beats none, to be divided
    by the count of comparisons, K (K - 1) / 2 in a ranking, as with the other objectives of
    preferences. So with K = 2 loss and gradient are those of `dpo`, and with a larger K the loss is
    less than that of `dpo` on the same comparisons, for 1 + sum x <= prod (1 + x).
    """
    h = log_ratio_lead(scores.pi_logps, scores.ref_logps, pairs.chosen, pairs.rejected)
    z = beta * h - pairs.margin
    beaten = z.new_zeros(len(scores.pi_logps)).index_add(0, pairs.chosen, torch.ones_like(z))
    # log(1 + sum exp(-z)) as a function of log sum exp(-z): stable, and one term stays itself.
    losses = -F.logsigmoid(-_log_sum_exp(-z, pairs.chosen, beaten > 0))
    weights = torch.zeros_like(beaten).index_add(0, pairs.chosen, pairs.weight.to(z.dtype))
    losses = torch.where(beaten > 0, losses * weights / beaten.clamp(min=1), 0)
    rewards = implicit_rewards(scores.pi_logps, scores.ref_logps, beta)
    return Outcome(losses=losses, rewards=rewards)


def _log_sum_exp(values: Tensor, group: Tensor, present: Tensor) -> Tensor:
    """(B,) log sum exp of the values (T,) of each group in [0, B); 0 for a group without any."""
    start = torch.zeros_like(present, dtype=values.dtype)
    largest = start.scatter_reduce(0, group, values.detach(), "amax", include_self=False)
    total = start.index_add(0, group, torch.exp(values - largest[group]))
    return largest + torch.where(present, total, 1).log()
