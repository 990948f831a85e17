"""One case of the GPU benchmark: a model, and the ways of training it, in turn, on its weights."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from benchmarks.gpu_steps import Way
from benchmarks.needs import wait
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen3Config

from redpencil.engine.step import train_step
from redpencil.models.attention import enable_activation_checkpointing
from redpencil.models.gated import hold_fewer_activations
from redpencil.models.head import unwrap
from redpencil.models.load import equip
from redpencil.models.lora import add_lora
from redpencil.models.memory import BatchTooLarge, release_cached_memory
from redpencil.optim import OptimConfig, build_optimizer, set_learning_rate
from redpencil.scores.reference import Reference, adapter_off_reference, frozen_reference
from redpencil.stages.tasks import in_precision, preference_task
from redpencil.types import Batch, Example, Task, TreeBatch

RANK = 16
AGREES = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (0.02, 0.1)}
"""Relative differences of the first loss and the first gradient norm that rounding explains."""


class BenchmarkError(Exception):
    """What was to be compared is not equal."""


def config_of(size: str) -> PreTrainedConfig:
    """0.5 and 1.5 billion parameters in Qwen's shapes, 8 billion in Llama 3's, and a tiny one."""
    if size == "8b":
        return LlamaConfig(
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=128_256,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
        )
    width, inner, layers, heads, kv, head_dim, vocabulary = {
        "0.5b": (896, 4864, 24, 14, 2, 64, 151_936),
        "1.5b": (1536, 8960, 28, 12, 2, 128, 151_936),
        "tiny": (32, 48, 2, 4, 2, 16, 97),
    }[size]
    return Qwen3Config(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=head_dim,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )


SIZES = ("0.5b", "1.5b", "8b", "tiny")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """size: one of SIZES. train: "full" or "lora". max_tokens, pairs: budgets of micro-batches, of
    distinct tokens or, padded, of pairs; a way that does not fit them halves its own."""

    size: str
    train: str
    device: torch.device
    max_tokens: int
    pairs: int

    @property
    def config(self) -> PreTrainedConfig:
        return config_of(self.size)

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix products."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def model(self) -> nn.Module:
        """Random weights: float32 if trained, else in the products' dtype under adapters."""
        lora = self.train == "lora"
        torch.manual_seed(0)
        with torch.device(self.device):
            model = AutoModelForCausalLM.from_config(
                self.config, dtype=self.dtype if lora else torch.float32
            )
        equip(model)
        return (add_lora(model, rank=RANK) if lora else model).train()


@dataclass(slots=True)
class Contestant:
    """A way, its batches, and what was measured.

    first: loss and gradient norm before any update. timed: (batch, seconds). peak: bytes. failure:
    why it does not fit. spare: bytes of a reference model on the device that it does not need.
    """

    way: Way
    task: Task
    examples: Sequence[Sequence[Example]]
    budget: int
    spare: int = 0
    batches: list[Batch] = field(init=False)
    first: tuple[float, float] | None = None
    timed: list[tuple[int, float]] = field(default_factory=list)
    peak: int = 0
    failure: str = ""

    def __post_init__(self) -> None:
        self.batches = [self.way.batch(e, self.budget) for e in self.examples]

    def shrink(self) -> bool:
        """Halve the budget; False where micro-batches are single examples already."""
        if all(len(m.examples) == 1 for b in self.batches for m in b.micro_batches):
            return False
        self.budget = max(1, self.budget // 2)
        self.batches = [self.way.batch(e, self.budget) for e in self.examples]
        return True


def run(
    case: Case,
    model: nn.Module,
    ways: Sequence[Way],
    batches: Sequence[Sequence[Example]],
    rounds: int,
) -> list[Contestant]:
    """Compare first steps, warm up on every batch, then time in turn.

    Raises BenchmarkError where first steps differ by more than rounding.
    """
    contestants = _contestants(case, model, ways, batches)
    optimizer = build_optimizer(model.named_parameters(), OptimConfig(learning_rate=1e-6))
    set_learning_rate(optimizer, 0.0)
    for contestant in contestants:
        values = _step(contestant, model, optimizer, 0)
        if values is not None:
            contestant.first = values["loss"], values["grad_norm"]
    _require_agreement(case, contestants)
    set_learning_rate(optimizer, 1e-6)
    for at in range(1, len(batches)):  # lengths that come later are compiled now
        for contestant in contestants:
            _step(contestant, model, optimizer, at)
    for at in (i % len(batches) for i in range(rounds)):
        for contestant in contestants:
            values = _step(contestant, model, optimizer, at)
            if values is not None:
                contestant.timed.append((at, values["seconds"]))
    return contestants


def _contestants(
    case: Case, model: nn.Module, ways: Sequence[Way], batches: Sequence[Sequence[Example]]
) -> list[Contestant]:
    """Their references are the model as it is now; then the policy moves away from it."""
    frozen = None
    if case.train == "full" and any(way.live for way in ways):
        frozen = copy.deepcopy(model).requires_grad_(False).to(case.dtype)
    known = _known_reference(case, model, batches)
    spare = sum(p.nbytes for p in frozen.parameters()) if frozen is not None else 0
    made = []
    for way in ways:
        score = in_precision(way.score(), case.device)
        reference: Reference = known
        if way.live and frozen is None:
            reference = adapter_off_reference(model, score)
        elif way.live:
            reference = frozen_reference(frozen, score)
        task = preference_task("dpo", {}, score, reference)
        budget = case.pairs if way.feed == "padded" else case.max_tokens
        made.append(Contestant(way, task, batches, budget, 0 if way.live else spare))
    _move_away(model)
    return made


def _known_reference(
    case: Case, model: nn.Module, batches: Sequence[Sequence[Example]]
) -> Callable[[TreeBatch], Tensor]:
    """Computed once, on trees, and kept on the device."""
    trees = Way.named("trees")
    source = adapter_off_reference if case.train == "lora" else frozen_reference
    reference = source(model, in_precision(trees.score(), case.device))
    known = torch.zeros(sum(len(e.responses) for b in batches for e in b), device=case.device)
    for examples in batches:
        for micro_batch in trees.batch(examples, case.max_tokens).micro_batches:
            on_device = micro_batch.to(case.device)
            known[on_device.response_index] = reference(on_device).float()
    return lambda batch: known[batch.response_index]


def _move_away(model: nn.Module) -> None:
    """At the reference itself the first loss would be ln 2 whatever a forward pass computes."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and p.ndim >= 2 and "lora_A" not in name:
                p.add_(torch.randn_like(p), alpha=0.02 if "lora_B" in name else 0.002)


def _step(
    contestant: Contestant, model: nn.Module, optimizer: torch.optim.Optimizer, at: int
) -> dict[str, float] | None:
    """One update on a batch, timed, by a smaller budget if need be; None if it does not fit."""
    device = next(model.parameters()).device
    while not contestant.failure:
        try:
            with _recomputing(model, contestant.way.recompute):
                return _timed(contestant, model, optimizer, at, device)
        except (BatchTooLarge, torch.OutOfMemoryError) as error:
            said = (str(error).splitlines() or ["out of memory"])[0]
        optimizer.zero_grad(set_to_none=True)
        release_cached_memory()
        if not contestant.shrink():
            contestant.failure = said
    return None


class _recomputing:
    """Activation checkpointing, on inside."""

    def __init__(self, model: nn.Module, on: bool) -> None:
        self.model, self.on = model, on

    def __enter__(self) -> None:
        if self.on:
            enable_activation_checkpointing(self.model)

    def __exit__(self, *error: object) -> None:
        if self.on:
            unwrap(self.model).activation_checkpointing_disable()
            hold_fewer_activations(self.model)  # what checkpointing had taken the place of


def _timed(
    contestant: Contestant,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    at: int,
    device: torch.device,
) -> dict[str, float]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    wait(device)
    begun = time.perf_counter()
    means = train_step(model, optimizer, contestant.batches[at], contestant.task, max_grad_norm=1.0)
    wait(device)
    seconds = time.perf_counter() - begun
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() - contestant.spare
        contestant.peak = max(contestant.peak, peak)
    return {name: float(value) for name, value in means.items()} | {"seconds": seconds}


def _require_agreement(case: Case, contestants: Sequence[Contestant]) -> None:
    fitting = [c for c in contestants if c.first is not None]
    for other in fitting[1:]:
        for what, tolerance, a, b in zip(
            ("loss", "gradient norm"),
            AGREES[case.dtype],
            fitting[0].first,
            other.first,
            strict=True,
        ):
            if not abs(a - b) <= tolerance * abs(a):
                raise BenchmarkError(
                    f"{case.size} {case.train}: the first {what} is {a:.6g} for "
                    f"{fitting[0].way.name} and {b:.6g} for {other.way.name}"
                )
