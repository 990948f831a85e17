"""One optimizer step: forward, backward, clip, update. Knows no objective by name."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from redpencil.errors import NonFiniteError
from redpencil.models.memory import out_of_memory_is_batch_too_large
from redpencil.models.vocabulary import gradients_in_place
from redpencil.optim import clip_gradients
from redpencil.types import Batch, Example, Task


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    task: Task,
    *,
    max_grad_norm: float,
) -> dict[str, float]:
    """Update `model` once and return the batch's means (`loss`, `grad_norm`, ...).

    Losses are summed over micro-batches and divided once by the batch's own count, so the way the
    batch is cut into micro-batches does not matter. The device is waited for once: for the numbers.

    Raises, before the update: NonFiniteError when loss or gradient is NaN or infinite,
    BatchTooLarge when a micro-batch runs out of memory.
    """
    device = next(model.parameters()).device
    count, statistics_count = batch.count(task.unit), batch.count(task.statistics_unit)
    optimizer.zero_grad(set_to_none=True)
    losses: list[Tensor] = []
    means: dict[str, Tensor] = {}
    for micro_batch in batch.micro_batches:
        with out_of_memory_is_batch_too_large(), gradients_in_place():
            measured = task.measure(model, micro_batch.to(device))
            loss = measured.losses.sum() / count
            loss.backward()
        losses.append(loss.detach())
        for name, total in measured.statistics.items():
            means[name] = means.get(name, 0.0) + total / statistics_count
    grad_norm = clip_gradients((p for p in model.parameters() if p.requires_grad), max_grad_norm)
    means = {"loss": torch.stack(losses).sum(), **means, "grad_norm": grad_norm}
    numbers = torch.stack([*losses, *means.values()]).tolist()
    metrics = dict(zip(means, numbers[len(losses) :], strict=True))
    _refuse_non_finite(numbers[: len(losses)], metrics["grad_norm"], batch)
    optimizer.step()
    return metrics


def _refuse_non_finite(losses: list[float], grad_norm: float, batch: Batch) -> None:
    if all(map(math.isfinite, [*losses, grad_norm])):
        return
    pairs = zip(batch.micro_batches, losses, strict=True)
    at_fault = [m for m, loss in pairs if not math.isfinite(loss)]
    what = "the loss" if at_fault else "the gradient"
    examples = [e for m in (at_fault or batch.micro_batches) for e in m.examples]
    raise NonFiniteError(
        f"{what} became non-finite; no update was made and the last checkpoint is kept; "
        f"rows in question: {name_rows(examples)}"
    )


def name_rows(examples: Iterable[Example], *, at_most: int = 64) -> str:
    """`pairs.jsonl, rows 3, 17, 40`: the rows that examples were made of."""
    by_file: dict[str, list[int]] = {}
    for origin in dict.fromkeys(r.origin for e in examples for r in e.responses):
        by_file.setdefault(origin.file, []).append(origin.row)
    parts = []
    for file, rows in by_file.items():
        shown = ", ".join(map(str, sorted(rows)[:at_most]))
        more = f" and {len(rows) - at_most} more" if len(rows) > at_most else ""
        parts.append(f"{file}, row{'s' if len(rows) > 1 else ''} {shown}{more}")
    return "; ".join(parts)
