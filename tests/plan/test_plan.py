"""`redpencil plan`: counts are those of the run, nothing is loaded or written, and it says what
would fit."""

import json
import os
import statistics

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import redpencil as rp
from redpencil.cli.main import main
from redpencil.data.loader import Loader
from redpencil.plan.plan import plan
from redpencil.plan.table import duration
from tiny_runs import recipe


@pytest.fixture
def command(base, pairs):
    return ["plan", "--model", str(base), "--data", str(pairs), "--batch-size", "8"]


def test_counts_are_those_of_the_run(base, pairs, tmp_path, monkeypatch):
    asked = recipe(base, pairs, tmp_path / "run", max_tokens=200)
    planned = plan(asked, measure_time=False)
    drawn = []
    iterate = Loader.iterate

    def noted(self, state):
        for batch, after in iterate(self, state):
            drawn.append(batch)
            yield batch, after

    monkeypatch.setattr(Loader, "iterate", noted)
    run = rp.train(asked)
    steps = planned["steps"]
    assert steps["steps"] == run.summary["steps"]
    first = drawn[: steps["counted_steps"]]
    assert steps["counted_steps"] == 4  # an epoch
    assert steps["micro_batches_a_step"] == sum(len(b.micro_batches) for b in first) / len(first)
    assert steps["micro_batches_a_step"] > 1
    tokens = sum(len(m.input_ids) for b in first for m in b.micro_batches)
    assert steps["tokens_a_step"] == tokens / len(first)
    facts = json.loads((run.path / "data.json").read_text())
    for name in ("tokens_padded", "tokens_distinct"):
        assert steps[name] == facts[name]
    assert steps["tokens_distinct"] == tokens  # one epoch, every tree once
    trained = load_file(run.model / "model.safetensors")
    assert planned["parameters"]["total"] == sum(t.numel() for t in trained.values())


def test_adapters_are_planned_as_they_are_trained(base, pairs, tmp_path):
    asked = recipe(base, pairs, tmp_path / "run", lora_rank=4, max_steps=1)
    planned = plan(asked, measure_time=False)
    run = rp.train(asked)
    facts = json.loads((run.path / "environment.json").read_text())
    assert planned["parameters"] == {
        "total": facts["parameters"],
        "trained": facts["trainable_parameters"],
    }
    assert planned["memory"]["gradients"] == 4 * facts["trainable_parameters"]
    assert planned["memory"]["reference"] == 0  # the policy with its adapters off


def test_nothing_is_read_but_the_config(command, base, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).write_bytes(file.read_bytes())
    before = sorted(os.listdir(tmp_path))
    command[2] = str(bare)
    assert main([*command, "--json", "--no-time"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["memory"]["fits"]
    assert result["seconds"] is None
    assert sorted(os.listdir(tmp_path)) == before


def test_the_table_fits_80_columns(command, capsys):
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "It fits:" in " ".join(lines)
    for word in ("weights", "gradients", "optimizer", "activations", "tokens, shared", "a step"):
        assert any(word in line for line in lines), word


def test_a_process_holds_more_than_its_tensors(command, capsys, monkeypatch):
    """Libraries, data, and what the heap holds beyond what is asked of it."""
    monkeypatch.setattr("redpencil.plan.plan.resident_memory", lambda: 400_000_000)
    assert main([*command, "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    passing = memory["activations"] + memory["head"]
    training = memory["phases"]["training"]
    assert memory["process"] == 510_000_000 + training + passing
    assert main(command) == 0
    assert "as the system counts it" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr("redpencil.plan.plan.resident_memory", lambda: None)
    assert main(command) == 0
    assert "as the system counts it" not in capsys.readouterr().out


def test_what_does_not_fit_comes_with_what_would(command, capsys, monkeypatch):
    monkeypatch.setattr("redpencil.plan.plan.free_memory", lambda device: 3 * 2**20)
    assert main([*command, "--json", "--no-time"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert not result["memory"]["fits"]
    assert result["activation_checkpointing"] == "on"  # auto did what it could
    peaks = [s["peak"] for s in result["suggestions"]]
    assert peaks
    assert min(peaks) < result["memory"]["peak"]
    assert main([*command, "--no-time", "--max-tokens", "4096"]) == 0
    said = capsys.readouterr().out
    assert "It does not fit" in said
    assert "--lora-rank 16" in said


def test_a_reference_of_its_own_counts(command, base, capsys):
    assert main([*command, "--json", "--no-time", "--reference", str(base)]) == 0
    other = json.loads(capsys.readouterr().out)["memory"]
    assert main([*command, "--json", "--no-time"]) == 0
    own = json.loads(capsys.readouterr().out)["memory"]
    assert other["reference"] == own["reference"] == own["weights"]
    passing = "reference pass"
    assert other["phases"][passing] == own["phases"][passing] + own["weights"]


def test_sft_is_planned_too(command, capsys):
    assert main([*command, "--stage", "sft", "--json", "--no-time"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["memory"]["phases"].keys() == {"training"}
    assert main([*command, "--stage", "sft", "--beta", "0.2"]) == 2
    assert "--beta does nothing with --stage sft" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.85, "850 ms"), (12.34, "12.3 s"), (250, "4 min 10 s"), (12_000, "3 h 20 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"lora_rank": 16}, {"activation_checkpointing": "on"}], ids=str
)
def test_a_step_takes_as_long_as_planned(shared_data, tmp_path, options):
    """Within 15 % of the run's own steps. The rest of the machine should be idle."""
    torch.set_num_threads(os.cpu_count() or 1)
    tokenizer = shared_data / "stories260K"
    torch.manual_seed(0)
    LlamaForCausalLM(MIDDLING).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(tmp_path / "model")
    asked = rp.DpoRecipe(
        model=str(tmp_path / "model"),
        data=str(shared_data / "hh-rlhf-harmless" / "pairs.jsonl.gz"),
        out=str(tmp_path / "run"),
        max_length=512,
        batch_size=8,
        max_steps=8,
        eval_every=1000,
        sample_prompts=0,
        eval_fraction=0.02,
        cache=False,
        **options,
    )
    try:
        predicted = plan(asked)
        run = rp.train(asked)
    finally:
        torch.set_num_threads(1)
    rows = [row for row in run.metrics if "seconds" in row][1:]
    seconds_a_token = statistics.median(1 / row["tokens_per_second"] for row in rows)
    real = seconds_a_token * predicted["steps"]["tokens_a_step"]
    assert predicted["seconds"]["step"] == pytest.approx(real, rel=0.15)


MIDDLING = LlamaConfig(
    vocab_size=8192,
    hidden_size=384,
    intermediate_size=1536,
    num_hidden_layers=6,
    num_attention_heads=6,
    max_position_embeddings=2048,
)
