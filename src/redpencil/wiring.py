"""Wiring: a recipe's model, scorer, reference and tasks put together for one stage."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redpencil.console import say, track, warn
from redpencil.data.loader import Cost, in_order, padded_cost, tree_cost
from redpencil.errors import ModelError, RecipeError
from redpencil.models.attention import enable_activation_checkpointing
from redpencil.models.load import disable_dropout, learned_positions, load_model, load_tokenizer
from redpencil.models.lora import add_lora
from redpencil.objectives import objective
from redpencil.prepare import Prepared
from redpencil.recipes import DpoRecipe, Recipe
from redpencil.runfolder import RunFolder
from redpencil.scores.cache import ReferenceCache
from redpencil.scores.forward import Scorer, scorer_for
from redpencil.scores.oracle import oracle_logps
from redpencil.scores.reference import (
    adapter_off_reference,
    cached_reference,
    frozen_reference,
    reference_logps,
)
from redpencil.tasks import Reference, Score, in_precision, preference_task, sft_task
from redpencil.types import Example, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Reference log-probabilities of the run's responses, and the reference itself on demand.

    train, evaluation: (responses,) float32 by response index.
    """

    train: np.ndarray
    evaluation: np.ndarray
    beta: float
    score: Score
    path: str | None
    """Where the reference is loaded from; None: the policy with its adapters off."""
    trust_remote_code: bool

    @contextmanager
    def live(self, policy: PreTrainedModel) -> Iterator[Reference]:
        """The reference as a function of fresh batches; a separate model is freed afterwards."""
        if self.path is None:
            yield adapter_off_reference(policy, self.score)
            return
        parameter = next(policy.parameters())
        model = load_model(
            self.path,
            dtype=parameter.dtype,
            device=parameter.device,
            trust_remote_code=self.trust_remote_code,
        )
        yield frozen_reference(model, self.score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Everything one stage works with."""

    recipe: Recipe
    folder: RunFolder
    model: PreTrainedModel
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
    # On CUDA all-weights training keeps float32 masters under bf16 autocast: updates of 1e-6 of a
    # weight would vanish in bf16. Frozen weights under adapters are never updated and stay bf16.
    half = device.type == "cuda" and recipe.lora_rank > 0
    dtype = torch.bfloat16 if half else torch.float32
    model = load_model(
        start, dtype=dtype, device=device, trust_remote_code=recipe.trust_remote_code
    )
    switched_off = disable_dropout(model)
    if switched_off:
        say(f"model     dropout switched off in {switched_off} places: scores must be repeatable")
    _check_length(model, recipe, context_length)
    _check_vocabulary(model, prepared, start)
    scorer = _choose_scorer(recipe, model, start)
    score = in_precision(scorer.logps, device)
    cost = tree_cost if scorer.name == "tree" else padded_cost
    if recipe.lora_rank:
        alpha = recipe.lora_alpha or 2.0 * recipe.lora_rank
        model = add_lora(model, rank=recipe.lora_rank, alpha=alpha, seed=recipe.seed)
    if recipe.activation_checkpointing:
        enable_activation_checkpointing(model)
    references = None
    if isinstance(recipe, DpoRecipe):
        references = _find_references(recipe, model, score, cost, prepared, start, tokenizer)
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
        tokenizer=tokenizer,
        device=device,
        prepared=prepared,
        score=score,
        cost=cost,
        context_length=context_length,
        end_ids=end_token_ids(model, tokenizer, prepared.train),
        task=task,
        eval_task=eval_task,
        references=references,
    )


def refuse_unused_columns(recipe: DpoRecipe, prepared: Prepared) -> None:
    """Raise RecipeError when rows carry a weight, margin or probability the loss would ignore."""
    comparisons = (c for e in [*prepared.train, *prepared.evaluation] for c in e.comparisons)
    for column, first in objective(recipe.loss).unused_columns(comparisons).items():
        raise RecipeError(
            f"{first.origin} has a {column} ({getattr(first, column)}), which the loss "
            f"{recipe.loss} does not use; take another --loss or leave the column out"
        )


def _check_length(model: PreTrainedModel, recipe: Recipe, context_length: int) -> None:
    assert recipe.max_length is not None, "a resolved recipe has its length"
    if recipe.max_length <= context_length:
        return
    positions = learned_positions(model)
    if positions is not None and recipe.max_length > positions:
        raise RecipeError(
            f"--max-length {recipe.max_length} does not fit {recipe.model}: it has learned "
            f"{positions} positions"
        )
    warn(
        f"--max-length {recipe.max_length} goes beyond the {context_length} positions that "
        f"{recipe.model} was made for"
    )


def _check_vocabulary(model: PreTrainedModel, prepared: Prepared, name: str) -> None:
    size = model.get_input_embeddings().weight.shape[0]
    for example in [*prepared.train, *prepared.evaluation]:
        for ids in (example.prompt_ids, *(r.ids for r in example.responses)):
            if len(ids) and int(ids.max()) >= size:
                origin = example.responses[0].origin
                raise ModelError(
                    f"{origin} has token id {int(ids.max())}, but {name} knows only ids below "
                    f"{size}; the tokenizer belongs to another model"
                )


def _choose_scorer(recipe: Recipe, model: PreTrainedModel, name: str) -> Scorer:
    if recipe.scoring == "oracle":
        chosen = Scorer("oracle", oracle_logps, "asked for by --scoring oracle")
    else:
        chosen = scorer_for(model)
    if recipe.scoring == "tree" and chosen.name != "tree":
        raise ModelError(f"{name} cannot take trees: {chosen.reason}; use --scoring auto")
    if chosen.name == "tree":
        say(f"scoring   {name}: trees of tokens ({chosen.reason})")
    else:
        warn(
            f"{name} is scored by the padded oracle, exact but slower and with whole logits in "
            f"memory: {chosen.reason}"
        )
    return chosen


def _find_references(
    recipe: DpoRecipe,
    model: PreTrainedModel,
    score: Score,
    cost: Cost,
    prepared: Prepared,
    start: str,
    tokenizer: PreTrainedTokenizerBase,
) -> References:
    path = start if recipe.reference in ("base", "preferred-ft") else recipe.reference
    adapters_off = path == start and recipe.lora_rank > 0
    if path == start:
        reference = model
    else:
        reference = _other_model(recipe, model, tokenizer, prepared)
        scorer = _choose_scorer(recipe, reference, path)
        score = in_precision(scorer.logps, next(model.parameters()).device)
        cost = tree_cost if scorer.name == "tree" else padded_cost
    autocast = torch.bfloat16 if next(model.parameters()).device.type == "cuda" else None
    cache = ReferenceCache.of(reference, autocast=autocast) if recipe.cache else None

    def values(examples: list[Example], which: str) -> np.ndarray:
        return reference_logps(
            reference,
            score,
            examples,
            lay=lambda missing: in_order(missing, recipe.max_tokens, cost),
            cache=cache,
            track=lambda batches, total: track(
                batches, what=f"reference, {which}", total=total, size=lambda b: len(b.examples)
            ),
        )

    return References(
        train=values(prepared.train, "training"),
        evaluation=values(prepared.evaluation, "evaluation"),
        beta=recipe.loss_options["beta"],
        score=score,
        path=None if adapters_off else path,
        trust_remote_code=recipe.trust_remote_code,
    )


def _other_model(
    recipe: DpoRecipe,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prepared: Prepared,
) -> PreTrainedModel:
    """A reference of its own. Raises ModelError where it does not read the policy's tokens."""
    name = recipe.reference
    own = load_tokenizer(name, trust_remote_code=recipe.trust_remote_code)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"--reference {name} has another tokenizer than {recipe.model}; log-probabilities of "
            "the same token ids would not be of the same text"
        )
    parameter = next(policy.parameters())
    model = load_model(
        name,
        dtype=parameter.dtype,
        device=parameter.device,
        trust_remote_code=recipe.trust_remote_code,
    )
    disable_dropout(model)
    _check_vocabulary(model, prepared, name)
    return model


def end_token_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Example]
) -> list[int]:
    """What ends a response: the tokenizer's EOS, the model's own end tokens, and the special token
    that most training responses end with (a chat template's end of turn)."""
    ends: list[int | None] = []
    last = Counter(int(r.ids[-1]) for e in examples for r in e.responses)
    for token, _ in last.most_common(1):
        if token in tokenizer.all_special_ids or token in tokenizer.added_tokens_decoder:
            ends.append(token)
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends += configured if isinstance(configured, list) else [configured]
    ends.append(tokenizer.eos_token_id)
    return [token for token in dict.fromkeys(ends) if token is not None]
