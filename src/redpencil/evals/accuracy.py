"""Measurements on held-out examples: the task's loss and statistics, and one row per comparison."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from redpencil.types import Comparison, Example, Task, TreeBatch


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
    for batch in batches:
        measured = task.measure(model, batch.to(device))
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


def pair_rows(
    examples: Sequence[Example],
    texts: Sequence[tuple[str, Sequence[str]]],
    pi_logps: np.ndarray,
    ref_logps: np.ndarray,
    *,
    beta: float,
    step: int,
) -> Iterable[dict[str, Any]]:
    """One row per comparison for `pairs.jsonl`.

    texts: for each example its prompt and its responses as text. pi_logps, ref_logps:
    (responses,) by response index. The weight is sigma(r_l - r_w), the force with which DPO's
    gradient presses the pair.
    """
    rewards = beta * (pi_logps - ref_logps)
    for example, (prompt, responses) in zip(examples, texts, strict=True):
        for comparison in example.comparisons:
            yield {
                "split": "eval",
                "step": step,
                **_where(example, comparison),
                "prompt": prompt,
                "chosen": responses[comparison.chosen],
                "rejected": responses[comparison.rejected],
                **_numbers(example, comparison, pi_logps, ref_logps, rewards),
            }


def _where(example: Example, comparison: Comparison) -> dict[str, Any]:
    origin = comparison.origin or example.responses[comparison.chosen].origin
    return {"file": origin.file, "row": origin.row}


def _numbers(
    example: Example,
    comparison: Comparison,
    pi_logps: np.ndarray,
    ref_logps: np.ndarray,
    rewards: np.ndarray,
) -> dict[str, float | int]:
    w = example.response_base + comparison.chosen
    l = example.response_base + comparison.rejected  # noqa: E741  (the paper's y_l)
    margin = float(rewards[w] - rewards[l])
    return {
        "reward_chosen": float(rewards[w]),
        "reward_rejected": float(rewards[l]),
        "margin": margin,
        "weight": 1.0 / (1.0 + math.exp(min(margin, 700.0))),
        "logp_chosen": float(pi_logps[w]),
        "logp_rejected": float(pi_logps[l]),
        "ref_logp_chosen": float(ref_logps[w]),
        "ref_logp_rejected": float(ref_logps[l]),
        "length_chosen": int(example.responses[comparison.chosen].scored.sum()),
        "length_rejected": int(example.responses[comparison.rejected].scored.sum()),
    }
