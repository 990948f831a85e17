"""Prompts under one system prompt: said, planned, and trained on as if they were laid apart."""

import json

import pytest

import redpencil as rp
from redpencil.data.loader import all_once
from redpencil.models.tokenizer import load_tokenizer
from redpencil.plan.plan import plan
from redpencil.stages.prepare import prepare
from tiny_runs import recipe

SYSTEM = "The plot was superb and the cast was dull. " * 4


@pytest.fixture(scope="module")
def alike(pairs, tmp_path_factory):
    """The pairs, each prompt after the same four sentences."""
    path = tmp_path_factory.mktemp("alike") / "pairs.jsonl"
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    lines = [json.dumps(row | {"prompt": SYSTEM + row["prompt"]}) + "\n" for row in rows]
    path.write_text("".join(lines))
    return path


def of_steps(run, name):
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def test_training_is_that_of_trees_laid_apart(base, alike, tmp_path, monkeypatch):
    fed = {}

    def trained(name):
        made = rp.train(recipe(base, alike, tmp_path / name, max_tokens=400))
        fed[name] = plan(recipe(base, alike, tmp_path / "none", max_tokens=400), measure_time=False)
        return made

    together = trained("together")
    monkeypatch.setattr("redpencil.data.packing.FEWEST_SHARED", 10_000)
    apart = trained("apart")
    tokens = [fed[name]["steps"]["tokens_a_step"] for name in ("together", "apart")]
    assert tokens[0] < 0.9 * tokens[1]
    first = [of_steps(run, "grad_norm")[0] for run in (together, apart)]
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    # AdamW turns a gradient that is zero but for rounding into a whole step.
    assert of_steps(together, "loss") == pytest.approx(of_steps(apart, "loss"), rel=1e-3)


def test_it_is_said_and_planned(base, alike, tmp_path, capsys):
    made = recipe(base, alike, tmp_path / "run", max_tokens=600)
    prepared = prepare(made, "preference", load_tokenizer(str(base)), 128)
    assert prepared.facts["prompts_alike"] == 1.0
    assert prepared.facts["tokens_alike"] > 30
    said = " ".join(capsys.readouterr().out.split())
    assert "100% of the prompts begin as another does" in said
    steps = plan(made, measure_time=False)["steps"]
    fed = sum(len(batch.input_ids) for batch in all_once(prepared.train, 600))
    assert steps["tokens_one_pass"] == pytest.approx(fed, rel=0.02)
    assert steps["tokens_one_pass"] < 0.85 * steps["tokens_distinct"]


def test_nothing_is_said_where_prompts_differ(base, pairs, tmp_path, capsys):
    made = recipe(base, pairs, tmp_path / "run")
    facts = prepare(made, "preference", load_tokenizer(str(base)), 128).facts
    assert facts["prompts_alike"] < 0.1
    assert "begin as another does" not in " ".join(capsys.readouterr().out.split())
    steps = plan(made, measure_time=False)["steps"]
    assert steps["tokens_one_pass"] == steps["tokens_distinct"]
