"""What is watched while preferences are learned, as sums that add over micro-batches."""

from torch import Tensor

from redpencil.intervals import ROUNDING
from redpencil.objectives.pairwise import log_ratio_lead
from redpencil.types import Outcome, Pairs, Scores


def pair_statistics(outcome: Outcome, scores: Scores, pairs: Pairs) -> dict[str, Tensor]:
    """Sums over the T comparisons, 0-d and detached; divide by the count of comparisons.

    `rewards/accuracies` counts pairs whose chosen response has the larger reward, ties one half. A
    lead below the rounding of float32 log-probabilities is a tie: where the policy still is the
    reference, scored in other micro-batches, the accuracy is one half and not what rounding says.
    A response in several comparisons counts in each. {} for an objective without rewards.
    """
    if outcome.rewards is None:
        return {}
    chosen, rejected = outcome.rewards[pairs.chosen], outcome.rewards[pairs.rejected]
    logps = scores.pi_logps.detach()
    margins = chosen - rejected
    magnitude = logps[pairs.chosen].abs() + logps[pairs.rejected].abs()
    lead = log_ratio_lead(logps, scores.ref_logps, pairs.chosen, pairs.rejected)
    tied = lead.abs() <= ROUNDING * magnitude
    per_comparison = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": margins,
        "rewards/accuracies": (1 + margins.sign().masked_fill(tied, 0)) / 2,
        "logps/chosen": logps[pairs.chosen],
        "logps/rejected": logps[pairs.rejected],
    }
    return {name: values.sum() for name, values in per_comparison.items()}
