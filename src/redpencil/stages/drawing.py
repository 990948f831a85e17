"""Samples of a run in training: drawn from the policy, and its KL from the reference on them."""

from dataclasses import dataclass

import numpy as np
import torch

from redpencil.data.loader import all_once
from redpencil.data.packing import tree_cost
from redpencil.errors import ModelError
from redpencil.recipes.stages import PolicyRecipe
from redpencil.rollout.sample import as_examples, sample
from redpencil.scores.divergence import oracle_distributions, response_kl, tree_distributions
from redpencil.scores.in_memory import in_memory
from redpencil.stages.tasks import in_precision
from redpencil.stages.wiring import Wiring
from redpencil.types import TreeBatch


@dataclass(frozen=True, slots=True)
class Drawn:
    """One completion for each of the sampled prompts."""

    prompts: list[np.ndarray]
    completions: list[np.ndarray]


def draw(wiring: Wiring) -> Drawn:
    """Sample one completion at temperature 1 for the first held-out (or training) prompts."""
    recipe = wiring.recipe
    if not isinstance(recipe, PolicyRecipe):  # a reward model writes nothing
        return Drawn([], [])
    examples = wiring.prepared.evaluation or wiring.prepared.train
    room = wiring.context_length - recipe.sample_tokens
    prompts = [e.prompt_ids for e in examples if 0 < len(e.prompt_ids) <= room]
    prompts = prompts[: recipe.sample_prompts]
    if not prompts:
        return Drawn([], [])
    try:
        completions = sample(
            wiring.model,
            prompts,
            num=1,
            max_new_tokens=recipe.sample_tokens,
            temperature=1.0,
            eos_ids=wiring.end_ids,
            pad_id=wiring.end_ids[0],
            seed=recipe.seed,
        )
    except ModelError as error:
        hint = "with --sample-prompts 0 it can be trained all the same"
        raise ModelError(f"{error}; {hint}") from None
    return Drawn(prompts, [c[0] for c in completions])


@torch.no_grad()
def sequence_kl(wiring: Wiring, drawn: Drawn) -> tuple[float, float | None]:
    """KL(policy || reference) in nats per response, with its standard error, from completions
    drawn from the policy (`scores.divergence`)."""
    assert wiring.references is not None
    examples = as_examples(drawn.prompts, [[c] for c in drawn.completions])
    batches = all_once(examples, wiring.recipe.token_budget, wiring.cost)
    of_tree = wiring.cost is tree_cost
    policy = in_precision(tree_distributions if of_tree else oracle_distributions, wiring.device)
    with wiring.references.live_distributions(wiring.model) as reference:

        def kl_of(batch: TreeBatch) -> torch.Tensor:
            moved = batch.to(wiring.device)
            return response_kl(policy(wiring.model, moved), reference(moved), moved)

        kl = torch.cat([found for _, found in in_memory(batches, kl_of)])
    error = (kl.std() / len(kl) ** 0.5).item() if len(kl) > 1 else None
    return kl.mean().item(), error
