"""The page of a reward model: its own figures, and nothing that only a policy has."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from redpencil.report.page import render
from redpencil.report.points import against_length, calibration, points
from redpencil.report.reward_checks import calibrated, pays_for_length
from redpencil.report.rundata import read_run
from redpencil.report.verdict import judge

BINS = [
    {"low": 0.5, "high": 0.55, "pairs": 60, "predicted": 0.52, "observed": 0.5},
    {"low": 0.9, "high": 0.95, "pairs": 140, "predicted": 0.92, "observed": 0.7},
]


def without_policy(row: dict) -> dict:
    return {k: v for k, v in row.items() if "logp" not in k and not k.endswith("kl")}


@pytest.fixture
def reward_run(new_run: Callable[..., Path]) -> Path:
    """A run as `redpencil reward` leaves it: no samples, no log-probabilities, no KL."""
    folder = new_run(pairs=120)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    for name in ("loss", "beta"):
        del recipe[name]
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "stage": "reward"}))
    (folder / "samples.jsonl").unlink()
    for name in ("metrics.jsonl", "pairs.jsonl"):
        rows = [json.loads(line) for line in (folder / name).open()]
        text = "".join(json.dumps(without_policy(row)) + "\n" for row in rows)
        (folder / name).write_text(text)
    summary = json.loads((folder / "summary.json").read_text())
    for side in ("eval_before", "eval_after"):
        summary[side] = without_policy(summary[side])
    del summary["kl"]
    summary |= {
        "calibration": {"expected_error": 0.16, "bins": BINS},
        "length_correlation": 0.62,
        "centre": {"mean": 0.4, "std": 1.5, "responses": 96, "source": "responses of the data"},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_nothing_of_a_policy_is_on_the_page(reward_run):
    page = render(read_run(reward_run)).split("<script")[0]
    for word in ("mplicit", "KL", "log π", "Chosen moved", "how hard DPO", 'id="samples"'):
        assert word not in page, word
    assert "how hard training presses the pair" in page
    assert "Calibration" in page
    assert "Reward against length" in page
    assert "0 over 96 responses of the data, where it was 0.400" in page


def test_the_verdict_has_a_reward_models_numbers(reward_run):
    verdict = judge(read_run(reward_run))
    assert verdict.accuracy is not None
    labels = [f.label for f in verdict.figures]
    assert labels == ["Ordered correctly", "Mean margin", "Calibration error", "Reward and length"]
    assert verdict.figures[2].value == "16.0\N{NO-BREAK SPACE}%"


def test_the_points_are_the_summarys_and_the_pairs(reward_run):
    run = read_run(reward_run)
    bins = calibration(run)
    assert (bins["x"], bins["y"], bins["size"]) == ([0.52, 0.92], [0.5, 0.7], [60, 140])
    length = against_length(run)
    answers = {(p.prompt, text) for p in run.after for text in (p.chosen, p.rejected)}
    assert len(length["x"]) == len(length["y"]) == len(answers)
    for figure in (bins, length):
        assert {len(row) for row in figure["rows"]} == {len(figure["columns"])}


def test_checks_of_a_reward_model(reward_run):
    run = read_run(reward_run)
    over = calibrated(run)
    assert (over.severity, over.title) == ("worry", "It is surer than it is right")
    few = [{**b, "pairs": b["pairs"] // 20} for b in BINS]  # the same gaps in ten pairs
    chance = {"calibration": {"expected_error": 0.16, "bins": few}}
    assert calibrated(replace(run, summary=chance)).severity == "fine"
    assert pays_for_length(run).title == "It pays for long answers"


def test_a_dpo_run_has_none_of_it(run_folder):
    run = read_run(run_folder)
    assert points(run) == []
    assert calibrated(run) is None
    assert pays_for_length(run) is None
