"""How large micro-batches may be, and whether activations are recomputed: by the free memory.

The memory of a step is known before it is taken (`engine.footprint`). What is left open by a recipe
(`max_tokens: auto`, `activation_checkpointing: auto`) is resolved here, once for a run; a resumed
run goes on with what was chosen. `redpencil plan` asks the same functions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from redpencil.console import say, warn
from redpencil.data.packing import first_fit, padded_cost, tree_cost
from redpencil.data.tree import lay_tree
from redpencil.engine.footprint import (
    Footprint,
    Score,
    Shape,
    measured_footprint,
    synthetic_batch,
    training_footprint,
)
from redpencil.errors import MemoryExceeded, in_words
from redpencil.models.attention import enable_activation_checkpointing, install
from redpencil.models.lora import add_lora
from redpencil.models.memory import (
    BatchTooLarge,
    out_of_memory_is_batch_too_large,
    release_cached_memory,
)
from redpencil.models.vocabulary import gradients_in_place
from redpencil.optim import OptimizerName
from redpencil.recipes.stages import Recipe
from redpencil.scores.forward import Scorer
from redpencil.types import Example, TreeBatch

SHARE = {"cuda": 0.9, "mps": 0.6, "cpu": 0.5}
"""Share of the free memory that a run may plan for. A CPU's is shared with all other programs, and
the C library holds more than is asked of it: half as much again is usual, twice was seen."""

CAP = {"cuda": 32_768, "mps": 8_192, "cpu": 1_920}
"""Micro-batches larger than this are hardly faster and hold more activations (docs/LOG.md)."""

GRAIN = 128
"""Budgets are multiples of this."""

STATES: dict[OptimizerName, int] = {"adamw": 2, "rmsprop": 1}
"""Tensors that an optimizer keeps for each trained parameter, in its size."""

SAMPLED_TREES = 1_000

LINES = 3
"""Most lines drawn on the way to a budget; each costs two trials of the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the memory of a run's steps depends on, budget and checkpointing apart.

    bare, blank: make the model on the meta device, without and with its adapters. longest: the
    largest tree, in the slots that micro-batches are filled by.
    """

    bare: Callable[[], PreTrainedModel]
    blank: Callable[[], PreTrainedModel]
    score: Score
    shape: Shape
    longest: int
    states: int
    autocast: torch.dtype | None

    def footprint(self, tokens: int, *, checkpointing: bool) -> Footprint:
        """Of a step whose micro-batches have up to `tokens` slots; a larger tree is not cut."""
        largest = synthetic_batch(max(tokens, self.longest), self.shape)
        return self.footprint_of(largest, checkpointing=checkpointing)

    def footprint_of(self, largest: TreeBatch, *, checkpointing: bool) -> Footprint:
        """Of a step whose largest micro-batch is this. Raises NoEstimate."""
        with estimating():
            model = self.blank()
            if checkpointing:
                enable_activation_checkpointing(model)
            return training_footprint(
                model, self.score, largest, states=self.states, autocast=self.autocast
            )


class NoEstimate(Exception):
    """What a step takes could not be found this way; says why in a few words."""


@contextmanager
def estimating() -> Iterator[None]:
    """Raise NoEstimate for whatever goes wrong inside, where a model's own code runs on tensors
    without values. Some branch on what tensors hold; what only plans stops no run."""
    try:
        yield
    except Exception as error:
        raise NoEstimate(in_words(error)) from error


class Steps(Protocol):
    """What is known of the memory that a run's steps take. longest: slots of the largest tree."""

    @property
    def longest(self) -> int: ...

    def footprint(self, tokens: int, *, checkpointing: bool) -> Footprint:
        """Of a step whose micro-batches have up to `tokens` slots. Raises NoEstimate."""
        ...


TRIED = 512
"""Slots of a trial step: enough that what every step takes whatever its size counts little."""


class TrialSteps:
    """The memory of steps, measured on one of them and taken to grow with its slots."""

    def __init__(
        self, model: nn.Module, work: Workload, score: Score, device: torch.device
    ) -> None:
        """model: what will be trained, adapters in it. score: precision included."""
        self.longest = work.longest
        self._model, self._work, self._score, self._device = model, work, score, device
        self._measured: dict[bool, Footprint] = {}

    @property
    def _slots(self) -> int:
        return max(self.longest, TRIED)

    def footprint(self, tokens: int, *, checkpointing: bool) -> Footprint:
        """A model that once recomputes its activations goes on to: ask without it first."""
        if checkpointing not in self._measured:
            assert checkpointing or not self._measured, "recomputation cannot be switched off"
            self._measured[checkpointing] = self._measure(checkpointing)
        step = self._measured[checkpointing]
        grown = max(tokens, self.longest) / self._slots
        return replace(step, activations=int(grown * step.activations), head=int(grown * step.head))

    def _measure(self, checkpointing: bool) -> Footprint:
        with estimating(), in_training(self._model):
            if checkpointing:
                enable_activation_checkpointing(self._model)
            batch = synthetic_batch(self._slots, self._work.shape).to(self._device)
            try:
                return measured_footprint(self._model, self._score, batch, states=self._work.states)
            finally:
                release_cached_memory()


@contextmanager
def in_training(model: nn.Module) -> Iterator[None]:
    """A trial is of a step in training: at rest nothing is recomputed."""
    before = model.training
    model.train()
    try:
        yield
    finally:
        model.train(before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What was chosen. room: bytes that the run may plan for; None: the system does not tell."""

    max_tokens: int
    checkpointing: bool
    footprint: Footprint
    room: int | None

    @property
    def fits(self) -> bool:
        return self.room is None or self.footprint.peak <= self.room


def workload(
    recipe: Recipe,
    blank: Callable[[], PreTrainedModel],
    scorer: Scorer,
    examples: Sequence[Example],
    device: torch.device,
) -> Workload:
    """Measure the examples (a sample of them, and the longest of all) for their memory.

    blank: makes the bare model on the meta device; adapters are added here.
    """
    is_tree = scorer.name == "tree"
    cost = tree_cost if is_tree else padded_cost

    def bare() -> PreTrainedModel:
        model = blank()
        if is_tree:
            install(model)
        return model

    def adapted() -> PreTrainedModel:
        model = bare()
        return add_lora(model, rank=recipe.lora_rank) if recipe.lora_rank else model

    longest = max(examples, key=_path_slots)
    feed_last = recipe.HEAD == "reward"
    stride = -(-len(examples) // SAMPLED_TREES)
    sampled = [lay_tree(e, feed_last=feed_last) for e in examples[::stride]]
    # Packed as one pass packs them: much is shared, so more of the tokens that are fed are scored.
    slots = sum(filled for _, filled in first_fit(sampled, CAP[device.type], cost))
    # The oracle has logits for every slot; its sequences are laid side by side without sharing.
    scored = sum(len(t.target_ids) for t in sampled) / slots if is_tree else 1.0
    return Workload(
        bare=bare,
        blank=adapted,
        score=scorer.logps,
        shape=Shape(scored=scored, longest=max(2, _longest_path(longest)), feed_last=feed_last),
        longest=max(cost(lay_tree(longest, feed_last=feed_last)), *map(cost, sampled)),
        states=STATES[recipe.optimizer],
        autocast=torch.bfloat16 if device.type == "cuda" else None,
    )


def _path_slots(example: Example) -> int:
    """An upper bound of a tree's tokens, without laying it."""
    return len(example.prompt_ids) + sum(len(r.ids) for r in example.responses)


def _longest_path(example: Example) -> int:
    return len(example.prompt_ids) + max(len(r.ids) for r in example.responses)


def choose_budget(
    work: Steps,
    *,
    max_tokens: int | Literal["auto"],
    checkpointing: Literal["auto", "on", "off"],
    free: int | None,
    device: torch.device,
) -> Budget:
    """The largest budget that fits the share of the free memory, without recomputation if possible.

    free: bytes for all that the run needs, weights included. What the caller names is kept; where
    nothing fits, the budget is that of the longest tree, and `fits` says so. Raises NoEstimate.
    """
    room = None if free is None else int(SHARE[device.type] * free)
    policies = {"auto": (False, True), "on": (True,), "off": (False,)}[checkpointing]
    budgets: list[Budget] = []
    failed: NoEstimate | None = None
    for recompute in policies:

        @cache
        def footprint(tokens: int, recompute: bool = recompute) -> Footprint:
            return work.footprint(tokens, checkpointing=recompute)

        tokens = max_tokens
        try:
            if tokens == "auto":
                tokens = _largest(lambda t: footprint(t).peak, work.longest, room, CAP[device.type])
            held = footprint(tokens)
        except NoEstimate as error:
            failed = failed or error
            continue  # not every model can recompute its activations
        budgets.append(
            Budget(max_tokens=tokens, checkpointing=recompute, footprint=held, room=room)
        )
        if budgets[-1].fits:
            break
    if not budgets:
        assert failed, policies
        raise failed
    return budgets[-1]


def _largest(peak: Callable[[int], int], longest: int, room: int | None, cap: int) -> int:
    """The largest budget up to `cap` whose peak is within `room`; the longest tree's where none is.

    Bytes grow with tokens in straight pieces, each steeper than the one before, so a line between
    a budget that fits and one that does not never promises too much; it is drawn again from where
    it leads, while that gains anything.
    """
    if room is None or peak(cap) <= room:
        return cap
    most = cap // GRAIN
    least = max(1, min(-(-longest // GRAIN), most))
    for _ in range(LINES):
        low, high = peak(least * GRAIN), peak(cap)
        gained = int((most - least) * (room - low) / (high - low)) if low < room else 0
        least += gained
        if not gained:
            break
    return least * GRAIN


def prove(
    model: nn.Module, work: Workload, score: Score, max_tokens: int, device: torch.device
) -> int:
    """Run a forward and backward of a full micro-batch beside everything that training keeps, and
    return the budget that went: `max_tokens`, or a half, a quarter, ... of it.

    score: as the run computes it, precision included. Raises MemoryExceeded where even the longest
    tree does not go.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    while True:
        largest = max(max_tokens, work.longest)
        kept: list[Tensor] = []
        try:
            with out_of_memory_is_batch_too_large(), gradients_in_place(), in_training(model):
                kept += (torch.empty_like(p) for p in trained for _ in range(work.states))
                for parameter in trained:  # there from a step's second micro-batch on
                    parameter.grad = torch.zeros_like(parameter)
                batch = synthetic_batch(largest, work.shape).to(device)
                score(model, batch).sum().backward()
                return max_tokens
        except BatchTooLarge:
            pass
        finally:
            kept.clear()
            model.zero_grad(set_to_none=True)
        release_cached_memory()
        if largest == work.longest:
            raise MemoryExceeded(
                f"the largest prompt with its responses has {work.longest:,} tokens, and a step on "
                "it does not fit the memory; use --activation-checkpointing on, --lora-rank or a "
                "shorter --max-length (`redpencil plan` says what each of them takes)"
            )
        max_tokens = max(1, max_tokens // 2)


def settle(
    recipe: Recipe,
    work: Workload,
    trial: TrialSteps,
    *,
    free: int | None,
    device: torch.device,
) -> Recipe:
    """The recipe with budget and checkpointing resolved, said on screen.

    trial: asked where the memory of steps cannot be told without taking one. free: bytes for all
    that the run needs, weights included. A recipe that leaves neither open comes back as it is.
    """
    if recipe.max_tokens != "auto" and recipe.activation_checkpointing != "auto":
        return recipe
    choose = partial(
        choose_budget,
        max_tokens=recipe.max_tokens,
        checkpointing=recipe.activation_checkpointing,
        free=free,
        device=device,
    )
    try:
        chosen = choose(work)
    except NoEstimate as why:
        say(f"memory    is measured on a trial step, for it cannot be told without one ({why})")
        try:
            chosen = choose(trial)
        except NoEstimate as why:
            return _unknown(recipe, work, str(why))
    peak = gibibytes(chosen.footprint.peak)
    room = "free memory unknown" if free is None else f"{gibibytes(free)} free"
    how = "on" if chosen.checkpointing else "off"
    say(
        f"memory    micro-batches of {chosen.max_tokens:,} tokens, activation checkpointing {how}: "
        f"peak {peak}, {room}"
    )
    if work.longest > chosen.max_tokens:
        warn(
            f"the largest prompt with its responses has {work.longest:,} tokens, more than "
            f"--max-tokens {chosen.max_tokens:,}: it makes a micro-batch of its own"
        )
    if not chosen.fits:
        warn("that may not fit; `redpencil plan` with the same options says what would make it fit")
    return recipe.model_copy(
        update={"max_tokens": chosen.max_tokens, "activation_checkpointing": how}
    )


def _unknown(recipe: Recipe, work: Workload, why: str) -> Recipe:
    """What needs least, where not even a trial step says what a step takes."""
    tokens = recipe.max_tokens
    if tokens == "auto":
        tokens = GRAIN * -(-work.longest // GRAIN)
    how = "on" if recipe.activation_checkpointing == "on" else "off"
    warn(
        f"a trial step failed ({why}), so nobody knows what a step takes: micro-batches of "
        f"{tokens:,} tokens, activation checkpointing {how}"
    )
    return recipe.model_copy(update={"max_tokens": tokens, "activation_checkpointing": how})


def gibibytes(count: float) -> str:
    """`1.2 GiB`, `340 MiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
