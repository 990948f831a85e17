"""What is watched while preferences are learned: what responses are worth, and sums over pairs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from redpencil.errors import RecipeError
from redpencil.intervals import ROUNDING
from redpencil.objectives.pairwise import implicit_rewards
from redpencil.types import Outcome, Pairs, Rewards, Scores

RewardKind = Literal["implicit", "relative", "own"]

NUDGE = 2.0**-10
"""Share by which log-probabilities are moved to see how rewards follow them."""


@torch.no_grad()
def rewards_of(
    compute: Callable[[Scores, Pairs], Outcome], scores: Scores, pairs: Pairs, *, scale: float
) -> Rewards:
    """What an objective with its options holds the B responses to be worth: the rewards it returns,
    or scale (log pi - log pi_ref) where it returns none.

    Whatever the rewards are (per token, without a reference), how far rounding reaches into them is
    found by moving the log-probabilities. Raises RecipeError where they are not (B,).
    """
    scores = replace(scores, pi_logps=scores.pi_logps.detach())

    def values(given: Scores) -> Tensor:
        own = compute(given, pairs).rewards
        if own is None:
            return implicit_rewards(given.pi_logps, given.ref_logps, scale)
        if own.shape != given.pi_logps.shape:
            raise RecipeError(
                f"the objective returns rewards of shape {tuple(own.shape)}; one for each of the "
                f"{len(given.pi_logps)} responses is needed"
            )
        return own.detach().to(given.pi_logps.dtype)

    here = values(scores)
    moved = values(replace(scores, pi_logps=scores.pi_logps * (1 + NUDGE)))
    return Rewards(values=here, rounding=(moved - here).abs() * (ROUNDING / NUDGE))


def kind_of_rewards(compute: Callable[[Scores, Pairs], Outcome]) -> RewardKind:
    """Tried on two responses: "implicit" where rewards are a multiple of log pi - log pi_ref,
    "relative" where they are 0 for a policy that still is its reference, else "own": then margins
    before the first update are no ties by construction."""
    ones = torch.ones(1)
    pair = Pairs(
        chosen=torch.tensor([0]),
        rejected=torch.tensor([1]),
        weight=ones,
        margin=0 * ones,
        probability=ones,
    )

    def values(ref_logps: Tensor) -> Tensor:
        scores = Scores(
            pi_logps=pi_logps,
            ref_logps=ref_logps,
            lengths=torch.tensor([2, 3]),
            weights=torch.ones(2),
        )
        return rewards_of(compute, scores, pair, scale=1.0).values

    pi_logps = torch.tensor([-3.0, -5.0])
    if (values(pi_logps) != 0).any():
        return "own"
    per_nat = values(pi_logps - torch.tensor([1.0, 2.0])) / torch.tensor([1.0, 2.0])
    return "implicit" if torch.allclose(per_nat[0], per_nat[1], rtol=1e-5) else "relative"


def pair_statistics(rewards: Rewards, pi_logps: Tensor, pairs: Pairs) -> dict[str, Tensor]:
    """Sums over the T comparisons, 0-d and detached; divide by the count of comparisons.

    `rewards/accuracies` counts pairs whose chosen response has the larger reward, ties one half. A
    lead below rounding is a tie: where the policy still is the reference, scored in other
    micro-batches, the accuracy is one half and not what rounding says. A response in several
    comparisons counts in each.
    """
    values, rounding, logps = rewards.values, rewards.rounding, pi_logps.detach()
    margins = values[pairs.chosen] - values[pairs.rejected]
    tied = margins.abs() <= rounding[pairs.chosen] + rounding[pairs.rejected]
    margins = margins.masked_fill(tied, 0)
    per_comparison = {
        "rewards/chosen": values[pairs.chosen],
        "rewards/rejected": values[pairs.rejected],
        "rewards/margins": margins,
        "rewards/accuracies": (1 + margins.sign()) / 2,
        "logps/chosen": logps[pairs.chosen],
        "logps/rejected": logps[pairs.rejected],
    }
    return {name: values.sum() for name, values in per_comparison.items()}
