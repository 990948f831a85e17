"""Wiring of a reward model: pairs, a sequence classifier and Bradley-Terry put together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redpencil.console import say
from redpencil.data.chat import use_separator
from redpencil.data.loader import Loader
from redpencil.data.packing import Cost, padded_cost, tree_cost
from redpencil.data.prompts import Prompt, load_prompts
from redpencil.data.sources import named
from redpencil.errors import DataError
from redpencil.fit.fitting import end_token_ids
from redpencil.folders.run import RunFolder
from redpencil.models.check import check_model
from redpencil.models.configs import is_encoder
from redpencil.models.padding import settle_padding
from redpencil.models.tokenizer import context_length, load_tokenizer
from redpencil.recipes.stages import RewardRecipe
from redpencil.scores.forward import Scorer
from redpencil.stages.prepare import Prepared
from redpencil.stages.tasks import in_precision, reward_task
from redpencil.stages.wiring import load_policy
from redpencil.types import Example, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardWiring:
    """Everything a reward model's run works with."""

    recipe: RewardRecipe
    folder: RunFolder
    model: PreTrainedModel
    fingerprint: str
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    prepared: Prepared
    scorer: Scorer
    cost: Cost
    reference_prompts: list[Prompt]
    """Training prompts for the reference to complete, in its own tokens; [] without one."""
    end_ids: list[int]
    task: Task
    stream: Loader


def wire_reward(
    recipe: RewardRecipe,
    folder: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    prepared: Prepared,
    *,
    device: torch.device,
    context_length: int,
) -> RewardWiring:
    """Load the model and connect it. Raises ModelError, RecipeError."""
    # The reference writes at the end; what is wrong with it is said at the start.
    asked = [] if recipe.reference is None else _prompts_for(recipe.reference, recipe, prepared)

    def settle(model: PreTrainedModel) -> None:
        if is_encoder(model.config):
            return  # its reward is not read at the last token, and its positions count on the id
        changed = settle_padding(model, tokenizer, _ends(model, tokenizer, prepared, recipe))
        if changed:
            say(f"padding   {changed}")

    policy = load_policy(
        recipe,
        recipe.model,
        device,
        context_length,
        prepared.train,
        known=prepared.evaluation,
        prepare=settle,
    )
    settled, model, scorer = policy.recipe, policy.model, policy.scorer
    assert isinstance(settled, RewardRecipe), settled
    cost = tree_cost if scorer.name == "tree" else padded_cost
    return RewardWiring(
        recipe=settled,
        folder=folder,
        model=model,
        fingerprint=policy.fingerprint,
        tokenizer=tokenizer,
        device=device,
        prepared=prepared,
        scorer=scorer,
        cost=cost,
        reference_prompts=asked,
        end_ids=end_token_ids(model, tokenizer, recipe.chat_template, prepared.train),
        task=reward_task(
            in_precision(scorer.logps, device),
            label_smoothing=settled.label_smoothing,
            centring=settled.centring,
        ),
        stream=Loader(
            examples=prepared.train,
            batch_size=settled.batch_size,
            max_tokens=settled.token_budget,
            seed=settled.seed,
            cost=cost,
            feed_last=True,
        ),
    )


CENTRED_PROMPTS = 512
"""Training prompts whose responses set the mean; of more, this many at even distances."""

LONGEST_COMPLETION = 256
"""Most tokens that a reference writes for a prompt."""


def spread(examples: Sequence[Example]) -> list[Example]:
    """The examples whose prompts set the mean."""
    return list(examples[:: -(-len(examples) // CENTRED_PROMPTS)])


def completion_length(recipe: RewardRecipe, prepared: Prepared) -> int:
    """Most tokens of a reference's completion: no more than the longest training response has."""
    assert recipe.max_length is not None, "a resolved recipe has its length"
    longest = max(len(r.ids) for e in prepared.train for r in e.responses)
    return min(longest, LONGEST_COMPLETION, recipe.max_length // 2)


def _prompts_for(reference: str, recipe: RewardRecipe, prepared: Prepared) -> list[Prompt]:
    """Raises ModelError where the reference cannot write, DataError without prompts as text."""
    remote = recipe.trust_remote_code
    check_model(reference, trust_remote_code=remote)
    longest = context_length(reference, trust_remote_code=remote)
    assert recipe.max_length is not None, "a resolved recipe has its length"
    tokenizer = load_tokenizer(reference, trust_remote_code=remote)
    use_separator(tokenizer, recipe.separator, recipe.chat_template)
    read = load_prompts(
        recipe.data,
        tokenizer,
        room=min(longest, recipe.max_length) - completion_length(recipe, prepared),
        chat_template=recipe.chat_template,
        columns=recipe.columns or None,
    )
    keys = {e.prompt_key for e in spread(prepared.train)}
    asked = [p for p in read.prompts if p.prompt_key in keys]
    if not asked or any(isinstance(p.content, np.ndarray) for p in asked):
        raise DataError(
            f"--reference {reference} needs prompts as text, which {named(recipe.data)} lacks"
        )
    return asked


def _ends(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prepared: Prepared,
    recipe: RewardRecipe,
) -> set[int]:
    """Every token that a response may end with."""
    examples = chain(prepared.train, prepared.evaluation)
    seen = {int(r.ids[-1]) for e in examples for r in e.responses if len(r.ids)}
    return seen | set(end_token_ids(model, tokenizer, recipe.chat_template, prepared.train))
