"""Wiring: a recipe's model, scorer, reference and tasks put together for one stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redpencil.console import say, warn
from redpencil.data.packing import Cost, padded_cost, tree_cost
from redpencil.errors import RecipeError
from redpencil.fit.budget import TrialSteps, prove, settle, workload
from redpencil.fit.fitting import check_length, choose_scorer, end_token_ids
from redpencil.fit.machine import prepare_machine
from redpencil.folders.run import RunFolder
from redpencil.models.attention import enable_activation_checkpointing
from redpencil.models.check import check_examples
from redpencil.models.load import blank_like, load_model
from redpencil.models.lora import add_lora
from redpencil.models.memory import free_memory
from redpencil.models.training_mode import score_in_training_as_at_rest
from redpencil.objectives import objective
from redpencil.places import cache_folder
from redpencil.recipes.stages import DpoRecipe, PolicyRecipe, Recipe
from redpencil.scores.fingerprint import weights_fingerprint
from redpencil.scores.forward import Scorer
from redpencil.scores.reference import (
    cached_reference,
)
from redpencil.stages.prepare import Prepared
from redpencil.stages.references import References, find_references
from redpencil.stages.tasks import Score, in_precision, preference_task, sft_task
from redpencil.types import Example, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Everything one stage works with."""

    recipe: Recipe
    folder: RunFolder
    model: PreTrainedModel
    fingerprint: str
    """Of the weights the run starts from, adapters apart."""
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    prepared: Prepared
    score: Score
    cost: Cost
    context_length: int
    end_ids: list[int]
    task: Task
    eval_task: Task
    references: References | None


def wire(
    recipe: Recipe,
    folder: RunFolder,
    tokenizer: PreTrainedTokenizerBase,
    prepared: Prepared,
    *,
    start: str,
    device: torch.device,
    context_length: int,
) -> Wiring:
    """Load the model at `start` and connect it. Raises ModelError, RecipeError."""
    policy = load_policy(
        recipe, start, device, context_length, prepared.train, known=prepared.evaluation
    )
    recipe, model, fingerprint = policy.recipe, policy.model, policy.fingerprint
    _tell_of_samples(recipe, prepared, context_length)
    score = in_precision(policy.scorer.logps, device)
    cost = tree_cost if policy.scorer.name == "tree" else padded_cost
    references = None
    if isinstance(recipe, DpoRecipe):
        references = find_references(
            recipe, model, score, cost, prepared, start, fingerprint, tokenizer
        )
        task, eval_task = (
            preference_task(recipe.loss, recipe.loss_options, score, cached_reference(values))
            for values in (references.train, references.evaluation)
        )
    else:
        task = eval_task = sft_task(score)
    return Wiring(
        recipe=recipe,
        folder=folder,
        model=model,
        fingerprint=fingerprint,
        tokenizer=tokenizer,
        device=device,
        prepared=prepared,
        score=score,
        cost=cost,
        context_length=context_length,
        end_ids=end_token_ids(model, tokenizer, recipe.chat_template, prepared.train),
        task=task,
        eval_task=eval_task,
        references=references,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A model to be trained: adapters in, memory settled, its scorer chosen."""

    recipe: Recipe
    model: PreTrainedModel
    scorer: Scorer
    fingerprint: str
    """Of the weights the run starts from, adapters apart."""


def load_policy(
    recipe: Recipe,
    start: str,
    device: torch.device,
    context_length: int,
    examples: Sequence[Example],
    *,
    known: Sequence[Example] = (),
    prepare: Callable[[PreTrainedModel], object] = lambda model: None,
) -> Policy:
    """Load the model at `start` for training on examples like these, evaluated on `known`; the
    recipe's open fields are resolved. prepare: is shown the model before anything is measured.
    Raises ModelError, RecipeError."""
    model = _loaded(recipe, start, device)
    prepare(model)
    memory = cache_folder() if getattr(recipe, "cache", True) else None
    kernels = prepare_machine(model, device, recipe.matrix_kernels, memory)
    recipe = recipe.model_copy(update={"matrix_kernels": kernels})
    check_length(model, recipe, context_length)
    check_examples(model, chain(examples, known), start)
    scorer = choose_scorer(recipe, model, start)
    recipe, model = _fitted(recipe, model, scorer, examples, device)
    return Policy(recipe=recipe, model=model, scorer=scorer, fingerprint=weights_fingerprint(model))


def _tell_of_samples(recipe: Recipe, prepared: Prepared, context_length: int) -> None:
    """Say what evaluations will lack where no prompt leaves room for a sample."""
    if not isinstance(recipe, PolicyRecipe) or not recipe.sample_prompts:
        return
    prompts = [len(e.prompt_ids) for e in prepared.evaluation or prepared.train]
    if not any(0 < prompt <= context_length - recipe.sample_tokens for prompt in prompts):
        warn(
            f"--sample-tokens {recipe.sample_tokens} leaves no room for a prompt within the "
            f"{context_length} tokens of {recipe.model}: there will be no samples and no KL"
        )


def refuse_unused_columns(recipe: DpoRecipe, prepared: Prepared) -> None:
    """Raise RecipeError when rows carry a weight, margin or probability the loss would ignore."""
    comparisons = (c for e in chain(prepared.train, prepared.evaluation) for c in e.comparisons)
    for column, first in objective(recipe.loss).unused_columns(comparisons).items():
        raise RecipeError(
            f"{first.origin} has a {column} ({getattr(first, column)}), which the loss "
            f"{recipe.loss} does not use; take another --loss or leave the column out"
        )


def _fitted(
    recipe: Recipe,
    model: PreTrainedModel,
    scorer: Scorer,
    examples: Sequence[Example],
    device: torch.device,
) -> tuple[Recipe, PreTrainedModel]:
    """Settle how the run fits the memory, and put adapters and activation checkpointing in."""
    bare, score = model, in_precision(scorer.logps, device)
    work = workload(recipe, lambda: blank_like(bare), scorer, examples, device)
    free, held = free_memory(device), sum(p.nbytes for p in model.parameters())
    if recipe.lora_rank:
        alpha = recipe.lora_alpha or 2.0 * recipe.lora_rank
        model = add_lora(model, rank=recipe.lora_rank, alpha=alpha, seed=recipe.seed)
    trial = TrialSteps(model, work, score, device)
    room = None if free is None else free + held
    settled = settle(recipe, work, trial, free=room, device=device)
    if settled.activation_checkpointing == "on":
        enable_activation_checkpointing(model)
    if recipe.max_tokens == "auto" and device.type == "cuda":
        went = prove(model, work, score, settled.token_budget, device)
        if went < settled.token_budget:
            say(f"memory    a trial step asks for less: micro-batches of {went:,} tokens")
        settled = settled.model_copy(update={"max_tokens": went})
    return settled, model


def weights_dtype(recipe: Recipe, device: torch.device) -> torch.dtype:
    """On CUDA all-weights training keeps float32 masters under bf16 autocast: updates of 1e-6 of a
    weight would vanish in bf16. Frozen weights under adapters are never updated and stay bf16."""
    half = device.type == "cuda" and recipe.lora_rank > 0
    return torch.bfloat16 if half else torch.float32


def _loaded(recipe: Recipe, start: str, device: torch.device) -> PreTrainedModel:
    model = load_model(
        start,
        dtype=weights_dtype(recipe, device),
        device=device,
        trust_remote_code=recipe.trust_remote_code,
        head=recipe.HEAD,
        new_head=recipe.seed if recipe.HEAD == "reward" else None,
    )
    for said in score_in_training_as_at_rest(model):
        say(f"model     {said}")
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        warn(
            f"{start} asks for its router's auxiliary loss (output_router_logits in config.json), "
            f"which is not part of what {recipe.stage} minimises: experts are not balanced"
        )
    return model
