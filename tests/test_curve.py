"""The one-file example and the toolkit, on the same pairs in the same order: the same curve."""

import importlib.util
import json
from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import redpencil as rp
from redpencil.data.loader import Loader, LoaderState, epoch_order
from redpencil.world.pairs import prefixes, sft_rows
from zoo import example as stand_in

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"beta": 0.3, "learning_rate": 2e-3, "batch_size": 4, "max_grad_norm": 1.0}
STEPS = 12


def one_file():
    path = ROOT / "examples" / "dpo_in_one_file.py"
    spec = importlib.util.spec_from_file_location("dpo_in_one_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rows():
    """One pair for each of 24 prompts: two epochs of six steps."""
    texts = [row["completion"] for row in sft_rows(48, 7)]
    return [
        {"prompt": prompt, "chosen": texts[2 * i], "rejected": texts[2 * i + 1]}
        for i, prompt in enumerate(prefixes(24, 7))
    ]


def in_the_toolkit_s_order(rows):
    """The rows as the loader draws them over the epochs."""
    keys = [stand_in([1], [i % 50 + 3, 3]) for i in range(len(rows))]
    at = {id(e): i for i, e in enumerate(keys)}
    loader = Loader(examples=keys, batch_size=4, max_tokens=10_000, seed=5)
    order = []
    for epoch in range(2):
        order += epoch_order(len(keys), 5, epoch).tolist()
    drawn = [at[id(e)] for b, _ in islice(loader.iterate(LoaderState()), 12) for e in b.examples]
    for step in range(12):  # packing may turn prompts around inside a batch, never across
        assert sorted(drawn[4 * step : 4 * step + 4]) == sorted(order[4 * step : 4 * step + 4])
    return [rows[i] for i in order]


def test_the_curves_are_equal(base, rows, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = rp.train(
        rp.DpoRecipe(
            model=str(base),
            data=str(data),
            out=str(tmp_path / "run"),
            eval_fraction=0.0,
            epochs=2,
            schedule="constant",
            warmup_steps=3,
            sample_prompts=0,
            seed=5,
            cache=False,
            **SETTINGS,
        )
    )
    toolkit = [row["loss"] for row in run.metrics if "loss" in row]
    curve = one_file().train(
        AutoModelForCausalLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
        in_the_toolkit_s_order(rows),
        steps=STEPS,
        warmup_steps=3,
        **SETTINGS,
    )
    assert len(toolkit) == STEPS
    assert toolkit == pytest.approx(curve, rel=5e-5)
    assert curve[-1] < curve[0]
