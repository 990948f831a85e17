"""The comparison's own logic: equal inputs, agreement before timing, honest tables. No timing."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.cases import CASES, MAX_LENGTH, Case, Shape, build, gsm8k_pairs, real_pairs
from benchmarks.compare import BenchmarkError, agree
from benchmarks.protocol import equal_adapters
from benchmarks.table import HEADER, Measurement, Step, markdown, plain, rows, slower
from torch import nn
from transformers import AutoTokenizer

from benchmarks import compare, whole
from redpencil.data.records import load_records
from redpencil.data.tokenize import tokenize_records

TINY = Shape(hidden=64, layers=1, intermediate=64, heads=1)
SMALL = Case(
    name="small",
    what="four short responses",
    source="words",
    prompts=2,
    responses=4,
    prompt_tokens=9,
    response_tokens=5,
)
STEP = Step(seconds=2.0, loss=0.69, grad_norm=3.0, tokens=900, slots=300, peak_rss=10**9)


def read_pairs(job):
    return [json.loads(line) for line in Path(job["data"]).read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", ["k4", "hh"])
def test_redpencil_sees_the_tokens_that_joint_encoding_gives(name, tmp_path, request):
    """TRL encodes prompt + response + EOS as one text; redpencil encodes the parts."""
    data = request.getfixturevalue("shared_data") if name == "hh" else None
    job = json.loads(build(CASES[name], 2, tmp_path, data, TINY).read_text())
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    pairs = read_pairs(job)
    assert len(pairs) == 2 * job["pairs"]
    records = load_records(job["data"], purpose="preference")
    tokens = tokenize_records(records.records, tokenizer, max_length=MAX_LENGTH)
    assert not records.dropped and not tokens.dropped and not tokens.truncated
    for row, example in zip(pairs, tokens.examples, strict=True):
        for side, response in zip(("chosen", "rejected"), example.responses, strict=True):
            whole_text = row["prompt"] + row[side] + tokenizer.eos_token
            ids = [*example.prompt_ids, *response.ids]
            assert ids == tokenizer(whole_text)["input_ids"]
            assert len(ids) <= MAX_LENGTH


def test_synthetic_cases_have_the_lengths_they_are_named_for(tmp_path):
    case = CASES["long_prompt"]
    job = json.loads(build(case, 1, tmp_path, None, TINY).read_text())
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    for row in read_pairs(job):
        assert len(tokenizer(row["prompt"])["input_ids"]) == 400
        assert len(tokenizer(row["chosen"] + tokenizer.eos_token)["input_ids"]) == 60


def test_no_real_prompt_comes_twice(shared_data):
    """A step counts prompts on one side and pairs on the other."""
    prompts = [pair["prompt"] for pair in real_pairs(shared_data)]
    assert len(prompts) == len(set(prompts)) > 2000
    assert all(p["chosen"] != p["rejected"] for p in gsm8k_pairs(shared_data))


def test_the_worker_makes_steps_from_ln_2_and_feeds_shared_tokens_once(tmp_path):
    found = compare.measure(SMALL, ["redpencil"], 1, tmp_path, None, TINY)
    (step,) = found.steps["redpencil"]
    assert abs(step.loss - math.log(2)) < 0.01 and step.grad_norm > 0
    assert step.tokens == 2 * 6 * 2 * (9 + 5)  # prompts, pairs, sides
    assert step.slots == 2 * (9 + 4 * 4)  # nothing is predicted from a last token
    assert found.pairs == 12 and step.peak_rss > 10**8


def test_a_worker_that_dies_is_reported_with_what_it_said(tmp_path):
    job = build(SMALL, 1, tmp_path, None, TINY)
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(BenchmarkError, match=r"(?s)redpencil stopped by itself.*ModelError"):
        compare.Worker("redpencil", job)


@pytest.mark.parametrize(
    "other", [{"loss": 0.6902}, {"grad_norm": 3.01}, {"tokens": 901}, {"loss": math.nan}]
)
def test_nothing_is_timed_where_the_first_steps_differ(other):
    agree({"one": STEP, "two": replace(STEP, loss=0.690001, grad_norm=3.001, slots=900)}, 1)
    with pytest.raises(BenchmarkError, match=f"{next(iter(other))} is .* for one"):
        agree({"one": STEP, "two": replace(STEP, **other)}, 1)


def test_ratios_are_taken_on_the_same_pairs():
    ours = [replace(STEP, seconds=s) for s in (1.0, 2.0, 4.0)]
    theirs = [replace(STEP, seconds=s, slots=900, peak_rss=2 * 10**9) for s in (3.0, 4.0, 20.0)]
    assert slower(ours, theirs) == "3.00 (2.00 to 5.00)"
    first, second = rows(Measurement("c", "", 8, {"us": ours, "them": theirs}))
    assert dict(zip(HEADER, second, strict=True)) == {
        "case": "c",
        "contestant": "them",
        "s/step": "4.000",
        "pairs/s": "2.00",
        "distinct tokens/s": "75",  # 300 distinct tokens in their 4 seconds
        "slots/distinct": "3.00",
        "peak MB": "2,000",
        "times slower (range)": "3.00 (2.00 to 5.00)",
        "times the memory": "2.00",
    }
    assert first[7:] == ("1.00 (1.00 to 1.00)", "1.00")
    assert whole.rows({"us": [10.0], "them": [52.0]}, 100)[1] == (
        "them", "52.0", "1.92", "5.20 (5.20 to 5.20)",
    )  # fmt: skip


def test_tables_line_up():
    body = [("a", "x", "1.0"), ("long", "y", "10.0")]
    assert plain(("n", "c", "s"), body) == "n     c     s\na     x   1.0\nlong  y  10.0"
    assert (
        markdown(("n", "c", "s"), body[:1])
        == "| n | c | s |\n| --- | --- | ---: |\n| a | x | 1.0 |"
    )


def test_a_missing_trl_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("REDPENCIL_BENCH_PYTHON", str(tmp_path / "python"))
    with pytest.raises(BenchmarkError, match="make bench"):
        compare.python_of("trl")


def test_adapters_are_drawn_by_name():
    def module() -> nn.Module:
        layer = nn.Module()
        layer.lora_A = nn.ModuleDict({"default": nn.Linear(16, 4, bias=False)})
        layer.lora_B = nn.ModuleDict({"default": nn.Linear(4, 16, bias=False)})
        return nn.ModuleDict({"q": layer, "k": nn.Linear(2, 2)})

    one, other = module(), module()
    untouched = one["q"].lora_B["default"].weight.clone()
    equal_adapters(one)
    equal_adapters(other)
    drawn = one["q"].lora_A["default"].weight
    assert torch.equal(drawn, other["q"].lora_A["default"].weight)
    assert 0.1 < drawn.abs().max() <= 0.25
    assert torch.equal(one["q"].lora_B["default"].weight, untouched)
