"""Rollouts: completions drawn from the policy, rewarded, and scored token by token."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from redpencil.data.prompts import Prompt
from redpencil.data.tree import lay_trees
from redpencil.errors import ModelError
from redpencil.models.training_mode import at_rest
from redpencil.objectives.policy import generalized_advantages, leave_one_out, token_rewards
from redpencil.rollout.rewards import Reward, rate
from redpencil.rollout.sample import as_examples, sample, sample_with_logps
from redpencil.scores.in_memory import in_memory
from redpencil.types import Example, Message, Response, Rollout, TreeBatch

Advantage = Literal["rloo", "gae"]

TokenScore = Callable[[nn.Module, TreeBatch], Tensor]
"""(model, batch) -> (E,) log-probabilities of the responses' scored tokens."""

Critic = Callable[[nn.Module, TreeBatch], tuple[Tensor, Tensor]]
"""(model, batch) -> (E,) log-probabilities and (E,) values before each of the tokens."""


class Read(Protocol):
    """A completion as the text after its prompt."""

    def __call__(self, completion: np.ndarray, prompt: np.ndarray) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """How completions are drawn: at temperature 1 from the whole distribution, so that their
    log-probabilities are the scorer's."""

    num: int
    max_new_tokens: int
    end_ids: Sequence[int]
    at_once: int = 64

    def __call__(
        self, model: PreTrainedModel, prompts: Sequence[Prompt], seed: int
    ) -> list[list[np.ndarray]]:
        return sample(
            model,
            [p.ids for p in prompts],
            num=self.num,
            max_new_tokens=self.max_new_tokens,
            temperature=1.0,
            eos_ids=self.end_ids,
            pad_id=self.end_ids[0],
            seed=seed,
            batch_size=self.at_once,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Roller:
    """Makes examples of prompts: each with its rollouts, their rewards and advantages.

    score, reference: (E,) log-probabilities under the policy and the reference. critic: with the
    values of the policy's critic, for "gae". lay: cuts examples into micro-batches, in any order.
    """

    model: PreTrainedModel
    sampler: Sampler
    read: Read
    reward: Reward
    score: TokenScore
    reference: Callable[[TreeBatch], Tensor]
    critic: Critic | None
    lay: Callable[[Sequence[Example]], Iterable[TreeBatch]]
    beta: float
    advantage: Advantage
    gae_lambda: float

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], seed: int) -> list[Example]:
        """One example for each prompt. Raises UserError where the reward fails."""
        completions = self.sampler(self.model, prompts, seed)
        rewards = rewards_of(self.reward, self.read, prompts, completions)
        examples = as_examples([p.ids for p in prompts], completions)
        scored = self._scored(examples)
        made = []
        for example, earned in zip(examples, rewards, strict=True):
            at = example.response_base
            each = scored[at : at + len(example.responses)]
            made.append(self._rolled_out(example, earned, each))
        return self._whitened(made) if self.advantage == "gae" else made

    def _scored(self, examples: Sequence[Example]) -> list[tuple[np.ndarray, ...]]:
        """For each response by index: pi_logps, ref_logps and values of its tokens, (L,) each."""
        device = next(self.model.parameters()).device
        scored: list[tuple[np.ndarray, ...]] = [()] * sum(len(e.responses) for e in examples)

        def columns_of(laid: TreeBatch) -> np.ndarray:
            batch = laid.to(device)
            if self.critic is not None:
                pi_logps, values = self.critic(self.model, batch)
            else:
                pi_logps = self.score(self.model, batch)
                values = torch.zeros_like(pi_logps)
            columns = torch.stack([pi_logps, self.reference(batch), values])
            return columns.float().cpu().numpy()

        with at_rest(self.model):
            for laid, columns in in_memory(self.lay(examples), columns_of):
                ends = np.cumsum(laid.lengths.numpy())[:-1]
                for i, tokens in zip(
                    laid.response_index.tolist(), np.split(columns, ends, axis=1), strict=True
                ):
                    scored[i] = tuple(tokens)
        return scored

    def _rolled_out(
        self, example: Example, earned: Sequence[float], scored: Sequence[tuple[np.ndarray, ...]]
    ) -> Example:
        by_token = [
            token_rewards(reward, pi, ref, self.beta)
            for reward, (pi, ref, _) in zip(earned, scored, strict=True)
        ]
        if self.advantage == "rloo":
            over_others = leave_one_out(np.array([t.sum(dtype=np.float64) for t in by_token]))
            found = [
                (np.full(len(t), a, dtype=np.float32), np.zeros(len(t), dtype=np.float32))
                for t, a in zip(by_token, over_others, strict=True)
            ]
        else:
            found = [
                generalized_advantages(t, values, self.gae_lambda)
                for t, (_, _, values) in zip(by_token, scored, strict=True)
            ]
        responses = tuple(
            _with_rollout(response, reward, tokens, *advantages)
            for response, reward, tokens, advantages in zip(
                example.responses, earned, scored, found, strict=True
            )
        )
        return replace(example, responses=responses)

    def _whitened(self, examples: Sequence[Example]) -> list[Example]:
        """Advantages with mean 0 and deviation 1 over all tokens, as PPO's implementations have
        them: the critic's scale does not set the size of a step."""
        rollouts = [r.rollout for e in examples for r in e.responses if r.rollout is not None]
        tokens = np.concatenate([r.advantages for r in rollouts])
        mean, deviation = tokens.mean(), tokens.std() + 1e-8

        def whiten(response: Response) -> Response:
            assert response.rollout is not None, response
            advantages = (response.rollout.advantages - mean) / deviation
            return replace(response, rollout=replace(response.rollout, advantages=advantages))

        return [replace(e, responses=tuple(map(whiten, e.responses))) for e in examples]


def _with_rollout(
    response: Response,
    reward: float,
    scored: tuple[np.ndarray, ...],
    advantages: np.ndarray,
    returns: np.ndarray,
) -> Response:
    pi_logps, ref_logps, _ = scored
    return replace(
        response,
        rollout=Rollout(
            reward=reward,
            pi_logps=pi_logps,
            ref_logps=ref_logps,
            advantages=advantages,
            returns=returns,
        ),
    )


def rewards_of(
    reward: Reward,
    read: Read,
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[np.ndarray]],
) -> list[list[float]]:
    """The rewards of each prompt's completions. Raises RewardError, naming the prompt's row."""
    pairs = zip(prompts, completions, strict=True)
    return rate(
        reward,
        [_as_user_data(p) for p in prompts],
        [[read(c, p.ids) for c in each] for p, each in pairs],
        [p.row for p in prompts],
        [p.origin for p in prompts],
    )


def _as_user_data(prompt: Prompt) -> str | list[Message]:
    content = prompt.content
    assert isinstance(content, str | tuple), "prompts of ready token ids have no text"
    return content if isinstance(content, str) else [dict(message) for message in content]


TOLERANCE = {"cpu": 1e-3, "cuda": 0.25}
"""Largest difference of a token's log-probability between sampler and scorer that is rounding:
float32, and bfloat16."""


@torch.no_grad()
def check_sampler(
    model: PreTrainedModel,
    prompts: Sequence[np.ndarray],
    end_ids: Sequence[int],
    score: TokenScore,
    *,
    max_new_tokens: int,
) -> float:
    """The largest difference between the log-probabilities that generation drew from and those of
    the scorer, over a short completion of each prompt, drawn as the sampler draws.

    Where they differ, what is drawn is not from the policy that is trained: raises ModelError.
    """
    device = next(model.parameters()).device
    drawn = sample_with_logps(
        model,
        prompts,
        num=1,
        max_new_tokens=min(CHECKED_TOKENS, max_new_tokens),
        temperature=1.0,
        eos_ids=end_ids,
        pad_id=end_ids[0],
        seed=0,
    )
    batch = lay_trees(as_examples(prompts, [[d.ids for d in each] for each in drawn]))
    with at_rest(model):
        scored = score(model, batch.to(device)).float().cpu()
    drawn_by = torch.from_numpy(np.concatenate([d.logps for each in drawn for d in each]))
    error = float((drawn_by - scored).abs().max())
    if not error <= TOLERANCE.get(device.type, 1e-3):
        raise ModelError(
            f"the sampler's log-probabilities differ from the scorer's by up to {error:.2g} nats a "
            "token, so completions would not come from the policy that is trained"
        )
    return error


CHECKED_TOKENS = 16
