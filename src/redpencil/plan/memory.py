"""The memory of a planned run: by part, by phase, and what would make it fit."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from redpencil.engine.footprint import scoring_footprint, synthetic_batch
from redpencil.fit.budget import (
    GRAIN,
    Budget,
    NoEstimate,
    Workload,
    choose_budget,
    estimating,
    workload,
)
from redpencil.models.load import blank_model
from redpencil.recipes.stages import DpoRecipe, Recipe
from redpencil.scores.forward import Scorer
from redpencil.stages.prepare import Prepared

SUGGESTED_RANK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a plan is about, found once. free: bytes free on the device; resident: bytes of the
    machine's memory that a process holds with the data read and no model; None if unknown."""

    recipe: Recipe
    prepared: Prepared
    scorer: Scorer
    device: torch.device
    dtype: torch.dtype
    work: Workload
    free: int | None
    resident: int | None


SETTLED = 110_000_000
"""Bytes that a process takes besides: what libraries set up when they are used. This and what
follows were measured (benchmarks/planned.py)."""

HELD_AGAIN = 1.0
"""What the C library's heap holds beyond a step's passing tensors, in their bytes: no two
micro-batches are of one size, and the holes that they leave fit the next ones ill."""


def memory_by_part(planned: Planned, budget: Budget) -> dict[str, Any]:
    """Bytes by part at the peak of training, peaks of the other phases, and whether all fit."""
    parts = asdict(budget.footprint)
    beside, phases = _reference_phases(planned, parts)
    phases = {"training": budget.footprint.peak, **phases}
    peak = max(phases.values())
    return {
        **parts,
        "reference": beside,
        "phases": phases,
        "peak": peak,
        "process": _process(planned, budget),
        "free": planned.free,
        "room": budget.room,
        "fits": budget.room is None or peak <= budget.room,
    }


def _process(planned: Planned, budget: Budget) -> int | None:
    """Bytes that the system will count for the process at its peak, on a CPU."""
    if planned.resident is None or planned.device.type != "cpu":
        return None
    step = budget.footprint
    passing = step.activations + step.head
    return planned.resident + SETTLED + step.peak + int(HELD_AGAIN * passing)


def _reference_phases(planned: Planned, parts: dict[str, int]) -> tuple[int, dict[str, int]]:
    """Bytes of a reference model beside the policy, and the peaks of the phases that use it.

    Its log-probabilities are computed before training: by the policy's own weights where it starts
    from them, else by a second model. Evaluations measure the KL of samples against the live
    reference: the policy with its adapters off, or a second model, which is freed afterwards.
    """
    recipe, work = planned.recipe, planned.work
    if not isinstance(recipe, DpoRecipe):
        return 0, {}
    own = recipe.reference in ("base", "preferred-ft")
    if own and recipe.lora_rank:
        return 0, {}

    def passing(slots: int) -> tuple[int, int]:
        model = blank_model(
            recipe.model if own else recipe.reference,
            dtype=planned.dtype,
            trust_remote_code=recipe.trust_remote_code,
        )
        batch = synthetic_batch(slots, work.shape)
        with estimating():
            return scoring_footprint(model, work.score, batch, autocast=work.autocast)

    weights, scoring = passing(max(recipe.token_budget, work.longest))
    phases = {"reference pass": parts["weights"] + scoring + (0 if own else weights)}
    if recipe.sample_prompts and planned.prepared.evaluation:
        samples = recipe.sample_prompts * (work.shape.longest + recipe.sample_tokens)
        _, scoring = passing(min(recipe.token_budget, samples))
        held = parts["weights"] + parts["gradients"] + parts["optimizer"]
        phases["evaluation"] = held + weights + scoring
    return weights, phases


def suggestions(planned: Planned) -> list[dict[str, Any]]:
    """Changes of the recipe that need less memory, mildest first, each with what it would take;
    up to the second that fits."""
    listed: list[dict[str, Any]] = []
    for options, change in _changes(planned.recipe, planned.work):
        try:
            memory = _memory_of(planned, planned.recipe.model_copy(update=change))
        except NoEstimate:
            continue  # not every model can recompute its activations
        listed.append({"options": options, "peak": memory["peak"], "fits": memory["fits"]})
        if sum(s["fits"] for s in listed) == 2:
            break
    return listed


def _memory_of(planned: Planned, recipe: Recipe) -> dict[str, Any]:
    work = workload(
        recipe, planned.work.bare, planned.scorer, planned.prepared.train, planned.device
    )
    budget = choose_budget(
        work,
        max_tokens=recipe.max_tokens,
        checkpointing=recipe.activation_checkpointing,
        free=planned.free,
        device=planned.device,
    )
    return memory_by_part(replace(planned, recipe=recipe, work=work), budget)


def _changes(recipe: Recipe, work: Workload) -> Iterator[tuple[str, dict[str, Any]]]:
    least = GRAIN * -(-work.longest // GRAIN)
    smaller: dict[str, Any] = {}
    if recipe.token_budget > least:
        smaller = {"max_tokens": least}
        yield f"--max-tokens {least}", smaller
    flags = f"--max-tokens {least} " if smaller else ""
    recomputed = {**smaller, "activation_checkpointing": "on"}
    if recipe.activation_checkpointing != "on":
        yield f"{flags}--activation-checkpointing on", recomputed
    if isinstance(recipe, DpoRecipe) and recipe.sample_prompts and not recipe.lora_rank:
        flags = f"{flags}--activation-checkpointing on --sample-prompts 0"
        yield flags, {**recomputed, "sample_prompts": 0}
    if not recipe.lora_rank:
        adapters = {"lora_rank": SUGGESTED_RANK, "lora_alpha": 2.0 * SUGGESTED_RANK}
        kept = {"max_tokens": recipe.max_tokens, "activation_checkpointing": "off"}
        yield f"--lora-rank {SUGGESTED_RANK}", {**adapters, **kept}
        yield (
            f"--lora-rank {SUGGESTED_RANK} --max-tokens {least} --activation-checkpointing on",
            {**adapters, "max_tokens": least, "activation_checkpointing": "on"},
        )
