"""Slow: real data and the whole demo (`make test-slow`)."""

import importlib.util
import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

import redpencil as rp
from redpencil.folders.run import RunFolder
from redpencil.frontier.demo import demo

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def all_cores():
    """Real runs use the cores that quick tests leave alone."""
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(1)


ROOT = Path(__file__).resolve().parent.parent


def set_aside(run: rp.Run) -> Counter:
    return Counter(row["reason"] for row in RunFolder(run.path).read_rows("dropped.jsonl"))


def trial(shared_data, data, out, **options) -> rp.Run:
    model = str(shared_data / "stories260K")
    settings = {"epochs": 2, "learning_rate": 2e-4, "cache": False, "sample_prompts": 2}
    return rp.train(
        rp.DpoRecipe(model=model, data=str(data), out=str(out), **{**settings, **options})
    )


def test_right_answers_beat_wrong_ones_on_gsm8k(shared_data, tmp_path):
    path = ROOT / "examples" / "gsm8k_to_ranked.py"
    spec = importlib.util.spec_from_file_location("gsm8k_to_ranked", path)
    converter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(converter)
    source = shared_data / "gsm8k-solutions" / "solutions.jsonl"
    converter.main(str(source), str(tmp_path / "ranked.jsonl"))
    run = trial(shared_data, tmp_path / "ranked.jsonl", tmp_path / "run", eval_fraction=0.15)
    assert set_aside(run) == {"all responses tied": 405, "too long": 8}
    assert run.summary["eval_before"]["rewards/accuracies"] == 0.5
    assert run.summary["eval_after"]["rewards/accuracies"] > 0.55


def test_hh_transcripts(shared_data, tmp_path):
    data = shared_data / "hh-rlhf-harmless" / "pairs.jsonl.gz"
    run = trial(shared_data, data, tmp_path / "run", eval_fraction=0.1)
    aside = set_aside(run)
    assert aside.pop("too long") > 0
    assert aside == {"empty response": 3, "different prompts on the two sides": 3}
    assert run.summary["eval_after"]["rewards/accuracies"] > 0.5


def test_the_demo(tmp_path):
    run = demo(tmp_path / "demo", seed=0)
    summary = json.loads((run.path / "summary.json").read_text())
    reward, fluent = summary["true_reward"], summary["fluent"]
    spread = reward["stderr_before"] + reward["stderr_after"]
    assert reward["after"] - reward["before"] > 5 * spread
    assert fluent["after"] > 0.9
    assert summary["eval_after"]["rewards/accuracies"] > 0.65
