"""Measurements on held-out examples: the task's loss and statistics, and log-probabilities."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from redpencil.scores.in_memory import in_memory
from redpencil.types import Task, TreeBatch


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """metrics: means without the `eval/` prefix. pi_logps: (responses,) float32 by index."""

    metrics: dict[str, float]
    pi_logps: np.ndarray


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, batches: Iterable[TreeBatch], response_count: int
) -> Evaluation:
    """Mean loss and statistics over all micro-batches, with the response log-probabilities."""
    device = next(model.parameters()).device
    pi_logps = np.full(response_count, np.nan, dtype=np.float32)
    sums: dict[str, float] = {}
    counted = {"comparison": 0, "response": 0, "token": 0}
    for batch, measured in in_memory(batches, lambda laid: task.measure(model, laid.to(device))):
        pi_logps[batch.response_index.numpy()] = measured.pi_logps.float().cpu().numpy()
        totals = {"loss": measured.losses.sum(), **measured.statistics}
        for name, total in totals.items():
            sums[name] = sums.get(name, 0.0) + float(total)
        counted["comparison"] += len(batch.pairs.chosen)
        counted["response"] += len(batch.lengths)
        counted["token"] += len(batch.path_token)
    units = {name: task.unit if name == "loss" else task.statistics_unit for name in sums}
    metrics = {name: total / max(counted[units[name]], 1) for name, total in sums.items()}
    if task.unit == "token" and "loss" in metrics:
        metrics["perplexity"] = math.exp(min(metrics["loss"], 700.0))
    return Evaluation(metrics, pi_logps)
