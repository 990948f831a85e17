"""Curves of several runs over the same axes."""

from collections.abc import Sequence
from typing import Any

from redpencil.report.figures import LN2, series_of
from redpencil.report.rundata import RunData

# metric (held-out first, training where no run was evaluated), title, what it says
_METRICS = (
    ("rewards/accuracies", "accuracy", "Pairs ordered correctly", "0.5 is a coin toss."),
    ("loss", "loss", "Loss", "What training lowers."),
    ("rewards/margins", "margin", "Margin", "Reward of the chosen answer less the rejected's."),
    ("kl", "kl", "KL from the reference", "Nats a response; 0 is not at all."),
    ("logps/chosen", "chosen", "Log-probability of chosen answers", "Of whole answers, in nats."),
    ("logps/rejected", "rejected", "Log-probability of rejected answers", "The same, rejected."),
    ("reward", "reward", "Reward", "Of the policy's own answers."),
    ("length", "length", "Length of answers", "In tokens."),
    ("perplexity", "perplexity", "Perplexity", "Lower is better."),
    ("grad_norm", "grad_norm", "Gradient norm", "Before clipping."),
    ("learning_rate", "learning_rate", "Learning rate", "Step size."),
)
_LINES = {"accuracy": (0.5, "coin toss"), "loss": (LN2, "ln 2")}

DASHES = ("", " dashed", " dotted", "", " dashed", " dotted", "", " dashed")
"""Runs differ by the pattern of their line as well as by colour."""


def style_of_run(place: int) -> str:
    return f"run{place}{DASHES[place]}"


def overlays(runs: Sequence[RunData], names: Sequence[str]) -> list[dict[str, Any]]:
    """A figure for each metric that two runs have at least two points of."""
    figures = []
    objectives = {(run.stage, run.recipe.get("loss")) for run in runs}
    for metric, key, title, explained in _METRICS:
        if key == "loss" and len(objectives) > 1:
            continue  # numbers of different scales
        of_dpo = objectives == {("dpo", "dpo")}
        line = _LINES.get(key) if key != "loss" or of_dpo else None
        held_out = [series_of(run, f"eval/{metric}", name) for run, name in _of(runs, names)]
        training = [series_of(run, metric, name) for run, name in _of(runs, names)]
        evaluated = sum(s is not None for s in held_out) >= sum(s is not None for s in training)
        chosen = held_out if evaluated else training
        series = [_drawn(s, i) for i, s in enumerate(chosen) if s]
        if len(series) < 2:
            continue
        smoothed = any(s and s["smooth"] for s in chosen)
        which = "Held out" if evaluated else "Training, running mean" if smoothed else "Training"
        figures.append(
            {
                "id": key,
                "kind": "curve",
                "title": title,
                "explained": f"{which}. {explained}",
                "series": series,
                "line": {"value": line[0], "label": line[1]} if line else None,
            }
        )
    return figures


def _drawn(series: dict[str, Any], place: int) -> dict[str, Any]:
    """A curve without the single steps behind it: those of several runs hide each other."""
    smooth = series["smooth"] or series["y"]
    return {**series, "y": smooth, "smooth": None, "style": style_of_run(place)}


def _of(runs: Sequence[RunData], names: Sequence[str]) -> list[tuple[RunData, str]]:
    return list(zip(runs, names, strict=True))
