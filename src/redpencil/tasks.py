"""Tasks: a scorer, a reference and an objective put together into what the engine trains."""

import torch
from torch import Tensor, nn

from redpencil.objectives import OBJECTIVES, bind, pair_statistics
from redpencil.scores.reference import Reference, Score
from redpencil.types import Measured, Scores, Task, TreeBatch


def preference_task(
    loss: str, options: dict[str, float], score: Score, reference: Reference
) -> Task:
    """Train on comparisons: DPO and its family."""
    compute = bind(loss, **options)

    def measure(model: nn.Module, batch: TreeBatch) -> Measured:
        pi_logps = score(model, batch)
        scores = Scores(
            pi_logps=pi_logps,
            ref_logps=reference(batch).to(pi_logps.device),
            lengths=batch.lengths,
            weights=batch.weights,
        )
        outcome = compute(scores, batch.pairs)
        return Measured(
            losses=outcome.losses,
            statistics=pair_statistics(outcome, scores, batch.pairs),
            pi_logps=pi_logps.detach(),
        )

    return Task(measure=measure, unit=OBJECTIVES[loss].unit)


def sft_task(score: Score) -> Task:
    """Train on the responses themselves, by token-mean negative log-likelihood."""
    compute = bind("sft")

    def measure(model: nn.Module, batch: TreeBatch) -> Measured:
        pi_logps = score(model, batch)
        scores = Scores(
            pi_logps=pi_logps, ref_logps=None, lengths=batch.lengths, weights=batch.weights
        )
        outcome = compute(scores, batch.pairs)
        return Measured(losses=outcome.losses, statistics={}, pi_logps=pi_logps.detach())

    return Task(measure=measure, unit=OBJECTIVES["sft"].unit)


def in_precision(score: Score, device: torch.device) -> Score:
    """The scorer under bf16 autocast on CUDA, as it is elsewhere. Policy and reference must go
    through the same one, or step 0 would not cost ln 2."""
    if device.type != "cuda":
        return score

    def autocast(model: nn.Module, batch: TreeBatch) -> Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return score(model, batch)

    return autocast
