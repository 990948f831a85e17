"""How long a step will take: measured on the first layers of the model with random weights.

Layers are alike, so a model of one layer and one of three, of the real width, vocabulary, adapters
and precision, give what a layer costs and what the rest costs. Both are timed on micro-batches of
the run's own data, forward and backward, and on an optimizer step.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from redpencil.models.attention import enable_activation_checkpointing
from redpencil.models.load import blank_model
from redpencil.models.lora import add_lora
from redpencil.models.vocabulary import gradients_in_place
from redpencil.optim import OptimConfig, build_optimizer, clip_gradients
from redpencil.recipes.stages import Recipe
from redpencil.scores.forward import Score
from redpencil.types import TreeBatch

SHALLOW, DEEP = 1, 3
"""Layers of the two models; a model with no more layers than the deep one is timed as it is."""

SECONDS = 4.0
"""Timing ends after this long, but not before each part was timed three times."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: of a distinct token in training (forward and backward) and when only scored, and of
    an optimizer step."""

    training: float
    scoring: float
    update: float

    def step(self, tokens: float) -> float:
        """Seconds of an optimizer step over so many distinct tokens."""
        return tokens * self.training + self.update


def measure_pace(
    recipe: Recipe,
    layers: int,
    dtype: torch.dtype,
    device: torch.device,
    score: Score,
    micro_batch: TreeBatch,
    trained: int,
) -> Pace:
    """Time the recipe's step on one of its micro-batches.

    layers: how many the model has. trained: its trained parameters. score: precision included.
    """
    depths = [layers] if layers <= DEEP else [SHALLOW, DEEP]
    models = [_random_model(recipe, depth, dtype, device) for depth in depths]
    batch = micro_batch.to(device)
    parts: list[Callable[[], object]] = []
    for model in models:
        parts += [_training(model, score, batch), _scoring(model, score, batch)]
    parts.append(_update(models[-1], recipe.optimizer))
    seconds = _medians(parts, device)
    tokens = len(batch.input_ids)
    own = sum(p.numel() for p in models[-1].parameters() if p.requires_grad)
    update = seconds.pop() * trained / own
    if len(depths) == 1:
        return Pace(seconds[0] / tokens, seconds[1] / tokens, update)
    training, scoring = (
        low + (high - low) * (layers - SHALLOW) / (DEEP - SHALLOW)
        for low, high in zip(seconds[:2], seconds[2:], strict=True)
    )
    return Pace(training / tokens, scoring / tokens, update)


def _random_model(
    recipe: Recipe, layers: int, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = blank_model(
            recipe.model,
            dtype=dtype,
            device=device,
            layers=layers,
            trust_remote_code=recipe.trust_remote_code,
            head=recipe.HEAD,
        )
    if recipe.lora_rank:
        model = add_lora(model, rank=recipe.lora_rank)
    if recipe.activation_checkpointing == "on":
        enable_activation_checkpointing(model)
    return model


def _training(model: nn.Module, score: Score, batch: TreeBatch) -> Callable[[], object]:
    def run() -> None:
        with gradients_in_place():
            score(model, batch).sum().backward()

    return run


def _scoring(model: nn.Module, score: Score, batch: TreeBatch) -> Callable[[], object]:
    return torch.no_grad()(lambda: score(model, batch))


def _update(model: nn.Module, optimizer: str) -> Callable[[], object]:
    """Gradients made anew, as each step does, clipping and update; a rate so small that nothing
    changes."""
    config = OptimConfig(optimizer=optimizer, learning_rate=1e-30)  # type: ignore[arg-type]
    made = build_optimizer(model.named_parameters(), config)
    trained = [p for p in model.parameters() if p.requires_grad]

    def run() -> None:
        made.zero_grad(set_to_none=True)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        clip_gradients(trained, 1.0)
        made.step()

    return run


def _medians(parts: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Median seconds of each part, timed in turn after a first round that is not counted."""
    taken: list[list[float]] = [[] for _ in parts]
    begun = time.perf_counter()
    while len(taken[-1]) < 4 or time.perf_counter() - begun < SECONDS:
        for part, times in zip(parts, taken, strict=True):
            since = time.perf_counter()
            part()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - since)
    return [statistics.median(times[1:]) for times in taken]
