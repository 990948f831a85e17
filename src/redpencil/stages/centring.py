"""Where a reward model's zero lies: the mean over a reference's completions (paper, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from redpencil.console import say
from redpencil.data.group import number_responses
from redpencil.data.loader import all_once
from redpencil.data.tokenize import readable
from redpencil.fit.fitting import end_token_ids
from redpencil.models.head import unwrap
from redpencil.models.load import load_model, unload
from redpencil.models.tokenizer import load_tokenizer
from redpencil.report.wording import fixed
from redpencil.rollout.reward_model import RewardModel
from redpencil.rollout.sample import sample
from redpencil.scores.in_memory import in_memory
from redpencil.stages.reward import RewardWiring, completion_length, spread
from redpencil.types import Example, TreeBatch


@dataclass(frozen=True, slots=True)
class Centre:
    """Mean and standard deviation of rewards over `responses` of them. source: whose, in words."""

    mean: float
    std: float
    responses: int
    source: str


def centre_of(wiring: RewardWiring) -> Centre:
    """Measure the rewards of the reference's completions of training prompts, one of each, or,
    where the recipe names no reference, of the responses in the training data."""
    was_training = wiring.model.training
    wiring.model.eval()
    try:
        if wiring.recipe.reference is None:
            rewards = _of_the_data(wiring, spread(wiring.prepared.train))
            source = "responses of the training data"
        else:
            rewards = _of_completions(wiring, wiring.recipe.reference)
            source = f"completions drawn from {wiring.recipe.reference}"
    finally:
        wiring.model.train(was_training)
    return Centre(float(rewards.mean()), float(rewards.std()), len(rewards), source)


def note_centre(model: nn.Module, centre: Centre) -> None:
    """Write mean and deviation into the model's config, with which they are saved; say them."""
    config = unwrap(model).config
    config.reward_mean, config.reward_std = centre.mean, centre.std
    say(
        f"rewards   mean {fixed(centre.mean, sign=True)}, deviation {fixed(centre.std)} over "
        f"{centre.responses:,} {centre.source}"
    )


@torch.no_grad()
def _of_the_data(wiring: RewardWiring, examples: Sequence[Example]) -> np.ndarray:
    """(responses,) float64, in no particular order."""
    budget, cost = wiring.recipe.token_budget, wiring.cost
    batches = all_once(number_responses(examples), budget, cost, feed_last=True)

    def rewards_of(batch: TreeBatch) -> torch.Tensor:
        return wiring.task.measure(wiring.model, batch.to(wiring.device)).pi_logps

    found = [given for _, given in in_memory(batches, rewards_of)]
    rewards: np.ndarray = torch.cat(found).double().cpu().numpy()
    return rewards


def _of_completions(wiring: RewardWiring, reference: str) -> np.ndarray:
    """(prompts,) float64: one completion of each."""
    recipe = wiring.recipe
    assert recipe.max_length is not None, "a resolved recipe has its length"
    reward = RewardModel(
        model=wiring.model,
        tokenizer=wiring.tokenizer,
        scorer=wiring.scorer,
        max_length=recipe.max_length,
        chat_template=recipe.chat_template,
    )
    prompts = wiring.reference_prompts
    contents = [p.content for p in prompts if not isinstance(p.content, np.ndarray)]
    completions = _completions(wiring, reference)
    return np.array(reward(contents, completions, [p.row for p in prompts]), dtype=np.float64)


def _completions(wiring: RewardWiring, reference: str) -> list[str]:
    """What the reference writes for each of its prompts at temperature 1."""
    recipe, prompts = wiring.recipe, wiring.reference_prompts
    tokenizer = load_tokenizer(reference, trust_remote_code=recipe.trust_remote_code)
    model = load_model(
        reference,
        dtype=torch.bfloat16 if wiring.device.type == "cuda" else torch.float32,
        device=wiring.device,
        trust_remote_code=recipe.trust_remote_code,
    )
    say(f"rewards   {reference} completes {len(prompts):,} training prompts")
    ends = end_token_ids(model, tokenizer, recipe.chat_template)
    drawn = sample(
        model,
        [p.ids for p in prompts],
        num=1,
        max_new_tokens=completion_length(recipe, wiring.prepared),
        temperature=1.0,
        eos_ids=ends,
        pad_id=ends[0],
        seed=recipe.seed,
    )
    unload(model)
    return [readable(c[0], tokenizer, after=p.ids) for p, c in zip(prompts, drawn, strict=True)]
