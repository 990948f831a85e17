"""Recipes of small runs, and when two of them gave the same (`from tiny_runs import ...`)."""

from pathlib import Path

import torch
from safetensors.torch import load_file

import redpencil as rp


def recipe(base, pairs, out, **options):
    """DPO on a few pairs, some seconds long."""
    settings = {
        "batch_size": 8,
        "epochs": 2,
        "learning_rate": 1e-3,
        "eval_fraction": 0.2,
        "sample_prompts": 2,
        "sample_tokens": 8,
        "cache": False,
    }
    return rp.DpoRecipe(model=str(base), data=str(pairs), out=str(out), **{**settings, **options})


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of a run's final model."""
    return load_file(run / "model" / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    """Bitwise."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
