"""`redpencil plan`: will it fit, how long will it take, before any weights load."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import torch

from redpencil.console import warn
from redpencil.data.chat import template_clock, use_separator
from redpencil.data.loader import Loader, LoaderState
from redpencil.data.packing import first_fit, padded_cost, tree_cost
from redpencil.data.tree import lay_tree
from redpencil.errors import ModelError
from redpencil.fit.budget import NoEstimate, Workload, choose_budget, workload
from redpencil.fit.fitting import choose_scorer
from redpencil.fit.machine import prepare_machine
from redpencil.models.kernels import matrix_kernels
from redpencil.models.load import blank_model, pick_device
from redpencil.models.memory import free_memory, resident_memory
from redpencil.models.tokenizer import context_length, load_tokenizer
from redpencil.places import cache_folder
from redpencil.plan.memory import Planned, memory_by_part, suggestions
from redpencil.plan.pace import DEEP, measure_pace
from redpencil.recipes.stages import DpoRecipe, Recipe, ResponsesRecipe, SftRecipe
from redpencil.stages.prepare import Purpose, dated, prepare
from redpencil.stages.run import check_models, max_length_of
from redpencil.stages.tasks import in_precision
from redpencil.stages.wiring import weights_dtype
from redpencil.types import Batch, TreeBatch

COUNTED_BATCHES = 200
"""Optimizer batches that are cut to count micro-batches; all of them where there are no more."""
COUNTED_TREES = 1_000
"""Trees packed to tell how much one pass over all of them shares; more are sampled evenly."""


def plan(recipe: Recipe, *, measure_time: bool = True) -> dict[str, Any]:
    """The plan of a recipe as a JSON-ready mapping; nothing is written and no weights are read.

    Raises UserError where the run itself would.
    """
    with _on_stderr(), matrix_kernels("default"):
        planned = _prepare(recipe)
        try:
            return _planned(planned, measure_time)
        except NoEstimate as why:
            raise ModelError(
                f"the memory of {recipe.model} cannot be told without its weights ({why}); a run "
                f"measures it on a trial step: redpencil {recipe.stage} with the same options and "
                "--max-steps 1"
            ) from why


def _planned(planned: Planned, measure_time: bool) -> dict[str, Any]:
    """The plan itself. Raises NoEstimate where the model's memory cannot be told."""
    recipe = planned.recipe
    budget = choose_budget(
        planned.work,
        max_tokens=recipe.max_tokens,
        checkpointing=recipe.activation_checkpointing,
        free=planned.free,
        device=planned.device,
    )
    settled = recipe.model_copy(
        update={
            "max_tokens": budget.max_tokens,
            "activation_checkpointing": "on" if budget.checkpointing else "off",
        }
    )
    planned = replace(planned, recipe=settled)
    batches = _first_batches(planned)
    largest = max((m for b in batches for m in b.micro_batches), key=lambda m: m.tokens)
    held = planned.work.footprint_of(largest, checkpointing=budget.checkpointing)
    memory = memory_by_part(planned, replace(budget, footprint=held))
    result: dict[str, Any] = {
        "model": settled.model,
        "data": settled.data,
        "device": str(planned.device),
        "scoring": planned.scorer.name,
        "parameters": _parameters(planned.work),
        "memory": memory,
        "steps": _steps(planned, batches),
        "max_tokens": budget.max_tokens,
        "activation_checkpointing": settled.activation_checkpointing,
        "suggestions": [] if memory["fits"] else suggestions(planned),
    }
    result["seconds"] = _seconds(planned, batches, result) if measure_time else None
    return result


@contextlib.contextmanager
def _on_stderr() -> Iterator[None]:
    """Inside, what is said goes to stderr: stdout is the plan's alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _prepare(recipe: Recipe) -> Planned:
    assert isinstance(recipe, ResponsesRecipe), recipe
    check_models(recipe, weights=False)
    longest = context_length(recipe.model, trust_remote_code=recipe.trust_remote_code)
    tokenizer = load_tokenizer(recipe.model, trust_remote_code=recipe.trust_remote_code)
    use_separator(tokenizer, recipe.separator, recipe.chat_template)
    max_length = max_length_of(recipe.max_length, longest)
    purpose: Purpose = "sft" if isinstance(recipe, SftRecipe) else "preference"
    with template_clock(recipe.template_date or date.today()):
        prepared = prepare(recipe, purpose, tokenizer, max_length)
        recipe = dated(recipe)
    resident = resident_memory()
    total = recipe.updates(len(prepared.train))
    for doubt in recipe.doubts(total):
        warn(doubt)
    recipe = recipe.model_copy(update={"eval_fraction": prepared.eval_fraction})
    recipe = recipe.resolve(total_steps=total, max_length=max_length)
    device = pick_device()
    dtype = weights_dtype(recipe, device)

    def blank(layers: int | None = None, on: torch.device | None = None) -> Any:
        return blank_model(
            recipe.model,
            dtype=dtype,
            device=on,
            layers=layers,
            trust_remote_code=recipe.trust_remote_code,
            head=recipe.HEAD,
        )

    memory = cache_folder() if getattr(recipe, "cache", True) else None
    prepare_machine(blank(), device, recipe.matrix_kernels, memory)
    # Whether the architecture takes trees shows on its first layers, with random weights.
    depth = min(DEEP, blank().config.get_text_config().num_hidden_layers)
    scorer = choose_scorer(recipe, blank(depth, device), recipe.model)
    return Planned(
        recipe=recipe,
        prepared=prepared,
        scorer=scorer,
        device=device,
        dtype=dtype,
        work=workload(recipe, blank, scorer, prepared.train, device),
        free=free_memory(device),
        resident=resident,
    )


def _first_batches(planned: Planned) -> list[Batch]:
    """The first optimizer batches of the run, cut as it will cut them."""
    recipe = planned.recipe
    loader = Loader(
        examples=planned.prepared.train,
        batch_size=recipe.batch_size,
        max_tokens=recipe.token_budget,
        seed=recipe.seed,
        cost=tree_cost if planned.scorer.name == "tree" else padded_cost,
        feed_last=recipe.HEAD == "reward",
    )
    assert recipe.max_steps is not None, "a resolved recipe has its steps"
    count = min(recipe.max_steps, loader.batches_per_epoch, COUNTED_BATCHES)
    drawn = loader.iterate(LoaderState())
    return [next(drawn)[0] for _ in range(count)]


def _parameters(work: Workload) -> dict[str, int]:
    parameters = list(work.blank().parameters())
    return {
        "total": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
    }


def _steps(planned: Planned, batches: Sequence[Batch]) -> dict[str, Any]:
    facts = planned.prepared.facts
    counts = [len(b.micro_batches) for b in batches]
    tokens = [sum(m.tokens for m in b.micro_batches) for b in batches]
    return {
        "steps": planned.recipe.max_steps,
        "prompts": facts["train_prompts"],
        "pairs": facts["train_pairs"],
        "tokens_padded": facts["tokens_padded"],
        "tokens_distinct": facts["tokens_distinct"],
        "longest_tree": planned.work.longest,
        "tokens_one_pass": round(facts["tokens_distinct"] * _shared(planned)),
        "tokens_a_step": sum(tokens) / len(tokens),
        "micro_batches_a_step": sum(counts) / len(counts),
        "counted_steps": len(batches),
    }


def _shared(planned: Planned) -> float:
    """Slots that one pass over the training set fills, over those of its trees laid apart: below 1
    where prompts begin alike."""
    examples = planned.prepared.train
    trees = [lay_tree(e) for e in examples[:: -(-len(examples) // COUNTED_TREES)]]
    cost = tree_cost if planned.scorer.name == "tree" else padded_cost
    filled = sum(slots for _, slots in first_fit(trees, planned.recipe.token_budget, cost))
    return filled / sum(map(cost, trees))


def _seconds(planned: Planned, batches: Sequence[Batch], result: dict[str, Any]) -> Any:
    """Seconds of a step and of the whole, by a probe; None where a shallow model does not fit."""
    recipe, work = planned.recipe, planned.work
    layers = work.blank().config.get_text_config().num_hidden_layers
    room = result["memory"]["room"]
    if room is not None and result["memory"]["peak"] > room and not _probe_fits(planned, layers):
        warn("no time is predicted: not even the first layers of this model fit here")
        return None
    pace = measure_pace(
        recipe,
        layers,
        planned.dtype,
        planned.device,
        in_precision(planned.scorer.logps, planned.device),
        _typical([m for b in batches for m in b.micro_batches]),
        result["parameters"]["trained"],
    )
    steps = result["steps"]
    step = pace.step(steps["tokens_a_step"])
    held_out = _held_out_tokens(planned, steps)
    evaluations = 2 + (steps["steps"] - 1) // (recipe.eval_every or steps["steps"])
    reference = (steps["tokens_one_pass"] + held_out) * pace.scoring
    return {
        "step": step,
        "training": step * steps["steps"],
        "reference_pass": reference if isinstance(recipe, DpoRecipe) else 0.0,
        "evaluations": evaluations * held_out * pace.scoring,
        "tokens_per_second": steps["tokens_a_step"] / step,
    }


def _typical(micro_batches: Sequence[TreeBatch]) -> TreeBatch:
    """The one nearest to what they are like, in tokens and in scored ones for each of them: the
    head's share of the time is theirs."""
    tokens = np.array([m.tokens for m in micro_batches])
    scored = np.array([len(m.target_ids) for m in micro_batches])
    share = (scored / tokens) / (scored.sum() / tokens.sum())
    far = np.abs(np.log(tokens / np.median(tokens))) + np.abs(np.log(np.maximum(share, 1e-9)))
    return micro_batches[int(far.argmin())]


def _probe_fits(planned: Planned, layers: int) -> bool:
    """Whether the shallow models may be built: two of them at once, weights to optimizer states."""
    recipe = planned.recipe
    shallow = blank_model(
        recipe.model,
        dtype=planned.dtype,
        layers=min(layers, DEEP),
        trust_remote_code=recipe.trust_remote_code,
        head=recipe.HEAD,
    )
    weights = sum(p.nbytes for p in shallow.parameters())
    return planned.free is None or 8 * weights < planned.free


def _held_out_tokens(planned: Planned, steps: dict[str, Any]) -> float:
    """Tokens of one pass over the evaluation set, at the training set's tokens for a response."""
    facts = planned.prepared.facts
    return steps["tokens_one_pass"] * facts["eval_responses"] / facts["train_responses"]
