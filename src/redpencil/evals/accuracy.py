"""Measurements on held-out examples: the task's loss and statistics, and log-probabilities."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from redpencil.evals.pairs import Valued
from redpencil.scores.in_memory import in_memory
from redpencil.types import Task, TreeBatch


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """metrics: means without the `eval/` prefix. pi_logps: (responses,) float32 by index. valued:
    the same with the responses' rewards, where the task compares pairs by rewards."""

    metrics: dict[str, float]
    pi_logps: np.ndarray
    valued: Valued | None = None


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, batches: Iterable[TreeBatch], response_count: int
) -> Evaluation:
    """Mean loss and statistics over all micro-batches, with the response log-probabilities."""
    device = next(model.parameters()).device
    pi_logps, rewards, rounding = np.full((3, response_count), np.nan, dtype=np.float32)
    compared = False
    sums: dict[str, float] = {}
    counted = {"comparison": 0, "response": 0, "token": 0}
    for batch, measured in in_memory(batches, lambda laid: task.measure(model, laid.to(device))):
        at = batch.response_index.numpy()
        pi_logps[at] = measured.pi_logps.float().cpu().numpy()
        if measured.rewards is not None:
            compared = True
            rewards[at] = measured.rewards.values.float().cpu().numpy()
            rounding[at] = measured.rewards.rounding.float().cpu().numpy()
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
    valued = Valued(pi_logps=pi_logps, rewards=rewards, rounding=rounding) if compared else None
    return Evaluation(metrics, pi_logps, valued)
