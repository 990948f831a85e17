"""Tasks: a scorer, a reference and an objective put together into what the engine trains."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from redpencil.objectives import OBJECTIVES, bind, pair_statistics, rewards_of
from redpencil.objectives.policy import clipped_surrogate, value_loss
from redpencil.objectives.reward import bradley_terry, reward_statistics
from redpencil.rollout.roll import Critic, TokenScore
from redpencil.scores.divergence import drawn_token_kl
from redpencil.scores.forward import Score, per_response
from redpencil.scores.reference import Reference
from redpencil.types import Measured, Rewards, Rollouts, Scores, Task, TreeBatch

Found = TypeVar("Found")


def preference_task(
    loss: str, options: dict[str, float], score: Score, reference: Reference
) -> Task:
    """Train on comparisons: DPO and its family."""
    compute, scale = bind(loss, **options), options.get("beta", 1.0)

    def measure(model: nn.Module, batch: TreeBatch) -> Measured:
        pi_logps = score(model, batch)
        scores = Scores(
            pi_logps=pi_logps,
            ref_logps=reference(batch).to(pi_logps.device),
            lengths=batch.lengths,
            weights=batch.weights,
        )
        rewards = rewards_of(compute, scores, batch.pairs, scale=scale)
        return Measured(
            losses=compute(scores, batch.pairs).losses,
            statistics=pair_statistics(rewards, pi_logps, batch.pairs),
            pi_logps=pi_logps.detach(),
            rewards=rewards,
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


def reward_task(score: Score, *, label_smoothing: float, centring: float) -> Task:
    """Train a reward model on comparisons (paper Eq. 2). score: gives (B,) rewards."""

    def measure(model: nn.Module, batch: TreeBatch) -> Measured:
        rewards = score(model, batch)
        losses = bradley_terry(
            rewards, batch.pairs, label_smoothing=label_smoothing, centring=centring
        )
        return Measured(
            losses=losses,
            statistics=reward_statistics(rewards, batch.pairs),
            pi_logps=rewards.detach(),
            rewards=Rewards(values=rewards.detach(), rounding=torch.zeros_like(rewards)),
        )

    return Task(measure=measure, unit="comparison")


def rl_task(
    score: TokenScore, critic: Critic | None, *, clip: float, value_coefficient: float, beta: float
) -> Task:
    """Train on rollouts by PPO's clipped surrogate, and the critic, if there is one, with it.

    A response's loss is the sum over its tokens: the gradient is that of its total reward, however
    long it is.
    """

    def measure(model: nn.Module, batch: TreeBatch) -> Measured:
        drawn = batch.rollouts
        assert drawn is not None, "RL trains on rollouts"
        if critic is None:
            logps_E, values_E = score(model, batch), None
        else:
            logps_E, values_E = critic(model, batch)
        losses_E = clipped_surrogate(logps_E, drawn.pi_logps, drawn.advantages, clip)
        with torch.no_grad():
            statistics = rollout_statistics(drawn, logps_E, batch, clip=clip, beta=beta)
        if values_E is not None:
            errors_E = value_loss(values_E, drawn.returns)
            losses_E = losses_E + value_coefficient * errors_E
            statistics["value/loss"] = per_response(
                errors_E.detach() / of_length(batch), batch
            ).sum()
        return Measured(
            losses=per_response(losses_E, batch),
            statistics=statistics,
            pi_logps=per_response(logps_E.detach(), batch),
        )

    return Task(measure=measure, unit="response", statistics_unit="response")


def rollout_statistics(
    drawn: Rollouts, logps_E: Tensor, batch: TreeBatch, *, clip: float, beta: float
) -> dict[str, Tensor]:
    """Sums over the B responses, 0-d: what they earned when they were drawn, how far the policy has
    moved since, and the share of their tokens at which its step is clipped.

    The KL is what `scores.divergence` calls it, from the drawn tokens; what a response earned less
    of is their log-ratio, which has the same mean.
    """
    kl = drawn_token_kl(drawn.pi_logps, drawn.ref_logps).sum()
    moved_E = logps_E - drawn.pi_logps
    outside_E = (moved_E.exp() - 1).abs() > clip
    return {
        "reward": drawn.rewards.sum(),
        "kl": kl,
        "objective": drawn.rewards.sum() - beta * kl,
        "length": batch.lengths.sum().float(),
        "policy/moved": moved_E.exp().sub(1).sub(moved_E).sum(),
        "policy/clipped": (outside_E / of_length(batch)).sum(),
    }


def of_length(batch: TreeBatch) -> Tensor:
    """(E,) for each token the length of its response, to average over its tokens by a sum."""
    return batch.lengths[batch.path_response].float()


def in_precision(
    score: Callable[[nn.Module, TreeBatch], Found], device: torch.device
) -> Callable[[nn.Module, TreeBatch], Found]:
    """The scorer under bf16 autocast on CUDA, as it is elsewhere. Policy and reference must go
    through the same one, or step 0 would not cost ln 2."""
    if device.type != "cuda":
        return score

    def autocast(model: nn.Module, batch: TreeBatch) -> Found:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return score(model, batch)

    return autocast
