"""Wiring of RL fine-tuning: prompts, policy, reference, reward and critic put together."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redpencil.console import say
from redpencil.data.loader import all_once
from redpencil.data.packing import Cost, padded_cost, tree_cost
from redpencil.data.prompts import Prompt
from redpencil.data.tokenize import readable
from redpencil.errors import ModelError, RecipeError
from redpencil.fit.fitting import end_token_ids
from redpencil.folders.run import RunFolder
from redpencil.models.load import disable_dropout, load_model
from redpencil.models.value import add_value_head
from redpencil.recipes.stages import RlRecipe
from redpencil.rollout.online import OnlineLoader
from redpencil.rollout.reward_model import RewardModel
from redpencil.rollout.rewards import Checked, Reward, find_reward
from redpencil.rollout.roll import (
    Critic,
    Roller,
    Sampler,
    TokenScore,
    check_sampler,
    rewards_of,
)
from redpencil.scores.divergence import oracle_distributions, response_kl, tree_distributions
from redpencil.scores.fingerprint import weights_fingerprint
from redpencil.scores.forward import path_logps, path_logps_and_values
from redpencil.scores.oracle import oracle_path_logps
from redpencil.scores.reference import adapter_off_reference, frozen_reference
from redpencil.stages.rl_prompts import PreparedPrompts
from redpencil.stages.tasks import in_precision, rl_task
from redpencil.stages.wiring import load_policy, weights_dtype
from redpencil.types import Example, Origin, Response, Task, TreeBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class RlWiring:
    """Everything an RL run works with."""

    recipe: RlRecipe
    folder: RunFolder
    model: PreTrainedModel
    fingerprint: str
    reward_fingerprint: str | None
    """Of the reward model's weights; None where the reward is a function."""
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    prepared: PreparedPrompts
    end_ids: list[int]
    task: Task
    kl: Callable[[TreeBatch], Tensor]
    """(B,) KL of each response's tokens, as `scores.divergence` says, of policy and reference."""
    reward: Reward
    stream: OnlineLoader

    def read(self, completion: np.ndarray, prompt: np.ndarray) -> str:
        """A completion as the text after its prompt."""
        return readable(completion, self.tokenizer, after=prompt)


def wire_rl(
    recipe: RlRecipe,
    folder: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    prepared: PreparedPrompts,
    *,
    device: torch.device,
    context_length: int,
) -> RlWiring:
    """Load the policy and its reward and connect them. Raises ModelError, RecipeError."""
    reward = find_reward(recipe.reward, trust_remote_code=recipe.trust_remote_code)
    _refuse_unreadable(recipe, reward)
    # Before the memory for micro-batches is settled: a second copy of the weights is part of it.
    frozen = None if recipe.lora_rank else _frozen(recipe, device)
    policy = load_policy(
        recipe, recipe.model, device, context_length, _expected(prepared.train, recipe)
    )
    settled, model = policy.recipe, policy.model
    assert isinstance(settled, RlRecipe), settled
    recipe = settled
    is_tree = policy.scorer.name == "tree"
    score = in_precision(path_logps if is_tree else oracle_path_logps, device)
    cost = tree_cost if is_tree else padded_cost
    end_ids = end_token_ids(model, tokenizer, recipe.chat_template)
    unlike = sorted((p.ids for p in prepared.train[:64]), key=len)
    error = check_sampler(
        model, [unlike[0], unlike[-1]], end_ids, score, max_new_tokens=recipe.max_new_tokens
    )
    _try_reward(reward, model, tokenizer, prepared.train[0], end_ids)
    say(f"sampling  its log-probabilities are the scorer's to {error:.0e} nats a token")
    reference = (
        adapter_off_reference(model, score) if frozen is None else frozen_reference(frozen, score)
    )
    critic = _critic(recipe, model, is_tree, device)
    task = rl_task(
        score,
        critic,
        clip=recipe.clip,
        value_coefficient=recipe.value_coefficient or 0.0,
        beta=recipe.beta,
    )
    roller = _roller(recipe, model, tokenizer, end_ids, reward, score, reference, critic, cost)
    return RlWiring(
        recipe=recipe,
        folder=folder,
        model=model,
        fingerprint=policy.fingerprint,
        reward_fingerprint=_fingerprint_of(reward),
        tokenizer=tokenizer,
        device=device,
        prepared=prepared,
        end_ids=end_ids,
        task=task,
        kl=_divergence(model, frozen, device, is_tree),
        reward=reward,
        stream=_stream(recipe, prepared, roller, cost),
    )


def _divergence(
    model: PreTrainedModel, frozen: PreTrainedModel | None, device: torch.device, is_tree: bool
) -> Callable[[TreeBatch], Tensor]:
    """(B,) KL of responses between a policy and its reference; frozen: None for adapters off."""
    score = in_precision(tree_distributions if is_tree else oracle_distributions, device)
    reference = (
        adapter_off_reference(model, score) if frozen is None else frozen_reference(frozen, score)
    )
    return lambda batch: response_kl(score(model, batch), reference(batch), batch)


def _fingerprint_of(reward: Reward) -> str | None:
    """Of a reward model's weights: a resumed run must go on with the same."""
    model = reward.reward if isinstance(reward, Checked) else reward
    return weights_fingerprint(model.model) if isinstance(model, RewardModel) else None


def _refuse_unreadable(recipe: RlRecipe, reward: Reward) -> None:
    """A reward model must be able to read what may be written: in the midst of a run it is late."""
    model = reward.reward if isinstance(reward, Checked) else reward
    if isinstance(model, RewardModel) and recipe.max_new_tokens >= model.max_length:
        raise RecipeError(
            f"--max-new-tokens {recipe.max_new_tokens} is more than {recipe.reward} reads: it was "
            f"made for {model.max_length} tokens"
        )


def _try_reward(
    reward: Reward,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    end_ids: Sequence[int],
) -> None:
    """Reward one short answer: what is wrong with a reward is said before anything is written."""
    drawn = Sampler(num=1, max_new_tokens=4, end_ids=end_ids)(model, [prompt], seed=0)
    rewards_of(reward, lambda c, p: readable(c, tokenizer, after=p), [prompt], drawn)


def _stream(
    recipe: RlRecipe, prepared: PreparedPrompts, roller: Roller, cost: Cost
) -> OnlineLoader:
    return OnlineLoader(
        examples=prepared.train,
        batch_size=recipe.batch_size,
        passes=recipe.passes,
        max_tokens=recipe.token_budget,
        seed=recipe.seed,
        roll=roller,
        cost=cost,
    )


def _roller(
    recipe: RlRecipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    end_ids: Sequence[int],
    reward: Reward,
    score: TokenScore,
    reference: Callable[[TreeBatch], Tensor],
    critic: Critic | None,
    cost: Cost,
) -> Roller:
    return Roller(
        model=model,
        sampler=Sampler(num=recipe.num, max_new_tokens=recipe.max_new_tokens, end_ids=end_ids),
        read=lambda completion, prompt: readable(completion, tokenizer, after=prompt),
        reward=reward,
        score=score,
        reference=reference,
        critic=critic,
        lay=lambda examples: all_once(examples, recipe.token_budget, cost),
        beta=recipe.beta,
        advantage=recipe.advantage,
        gae_lambda=recipe.gae_lambda or 0.0,
    )


def _expected(prompts: Sequence[Prompt], recipe: RlRecipe) -> list[Example]:
    """Prompts with rollouts as long and as different as they may be, for the memory they take."""

    def rollout(number: int) -> Response:
        ids = np.full(recipe.max_new_tokens, number, dtype=np.int32)
        return Response(ids=ids, scored=np.ones(len(ids), dtype=bool), origin=Origin("rollout", 0))

    responses = tuple(rollout(number) for number in range(recipe.num))
    return [
        Example(prompt_ids=p.ids, responses=responses, comparisons=(), prompt_key=p.prompt_key)
        for p in prompts
    ]


def _frozen(recipe: RlRecipe, device: torch.device) -> PreTrainedModel:
    """A copy of the model that the policy starts from: its reference."""
    model = load_model(
        recipe.model,
        dtype=weights_dtype(recipe, device),
        device=device,
        trust_remote_code=recipe.trust_remote_code,
    )
    disable_dropout(model)
    model.requires_grad_(False)
    return model


def _critic(
    recipe: RlRecipe, model: PreTrainedModel, is_tree: bool, device: torch.device
) -> Critic | None:
    if recipe.advantage != "gae":
        return None
    if not is_tree:
        raise ModelError(
            f"{recipe.model} is scored by the padded oracle, which has no critic; "
            "use --advantage rloo"
        )
    head = add_value_head(model)

    def critic(policy: nn.Module, batch: TreeBatch) -> tuple[Tensor, Tensor]:
        half = device.type == "cuda"
        with torch.autocast("cuda", dtype=torch.bfloat16) if half else nullcontext():
            return path_logps_and_values(policy, head, batch)

    return critic
