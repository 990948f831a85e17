"""The notebook of a whole run: what was measured, at no cost, and the same after a kill."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import redpencil as rp
from redpencil.engine.metrics import read_metrics
from redpencil.notebook import KINDS, read_notebook, read_tokens
from redpencil.notebook.schema import PAIR_SCHEMA, PAIRS, TOKENS, part_name
from redpencil.recipes.stages import RewardRecipe
from redpencil.stages import monitor, pair_tokens
from redpencil.stages.pair_log import PairLog
from redpencil.stages.pair_tokens import write_pair_tokens
from tiny_runs import recipe

EPOCHS, EVERY, STEPS = 4, 2, 16


def noted(base, pairs, out, **options):
    settings = {"epochs": EPOCHS, "eval_every": EVERY, "checkpoint_every": 3}
    return recipe(base, pairs, out, **{**settings, **options})


@pytest.fixture(scope="module")
def finished(base, pairs, tmp_path_factory) -> rp.Run:
    return rp.train(noted(base, pairs, tmp_path_factory.mktemp("run") / "dpo"))


def table(run) -> pd.DataFrame:
    return pd.read_parquet(run / PAIRS)


def test_pandas_reads_the_parts_as_one_table(finished):
    rows = table(finished.path)
    assert list(rows.columns) == PAIR_SCHEMA.names
    parts = sorted(p.name for p in (finished.path / PAIRS).iterdir())
    evaluated = range(0, STEPS + 1, EVERY)
    assert parts == sorted(part_name(s) for s in {*evaluated, *range(3, STEPS, 3)})
    held_out = rows[rows.split == "eval"]
    assert sorted(set(held_out.step)) == list(evaluated)
    assert set(held_out.groupby("pair").size()) == {len(evaluated)}
    trained = rows[rows.split == "train"]
    assert set(trained.groupby("pair").size()) == {EPOCHS}
    assert sorted(set(trained.step)) == list(range(1, STEPS + 1))


def test_rewards_margins_and_weights_are_what_they_say(finished):
    rows = table(finished.path).astype(dict.fromkeys(("margin", "weight"), float))
    for side in ("chosen", "rejected"):
        gain = rows[f"logp_{side}"] - rows[f"ref_logp_{side}"]
        np.testing.assert_allclose(rows[f"reward_{side}"], 0.1 * gain, atol=1e-5)
    np.testing.assert_allclose(rows.margin, rows.reward_chosen - rows.reward_rejected, atol=1e-6)
    np.testing.assert_allclose(rows.weight, 1 / (1 + np.exp(rows.margin)), atol=1e-6)
    assert (rows[(rows.split == "eval") & (rows.step == 0)].margin == 0).all()


def test_a_step_noted_what_the_step_measured(finished):
    """Its metrics are means over the same numbers, summed elsewhere."""
    rows = table(finished.path)
    trained = rows[rows.split == "train"].groupby("step").mean(numeric_only=True)
    logged = {r["step"]: r for r in finished.metrics if "loss" in r}
    for step, means in trained.iterrows():
        assert means.margin == pytest.approx(logged[step]["rewards/margins"], abs=1e-6)
        assert means.logp_chosen == pytest.approx(logged[step]["logps/chosen"], rel=1e-5)
    held_out = rows[rows.split == "eval"].groupby("step").mean(numeric_only=True)
    for r in read_metrics(finished.path / "metrics.jsonl"):
        if "eval/loss" in r:
            margin = held_out.loc[r["step"]].margin
            assert margin == pytest.approx(r["eval/rewards/margins"], abs=1e-6)


def test_rows_name_the_place_their_pair_came_from(finished, pairs):
    data = [json.loads(line) for line in pairs.open()]
    texts = [json.loads(line) for line in (finished.path / "pairs.jsonl").open()]
    rows = table(finished.path).set_index(["split", "step", "pair"])
    assert {t["split"] for t in texts} == {"eval", "train"}
    for text in texts:
        assert text["file"] == str(pairs)
        row = data[text["row"] - 1]
        assert row["prompt"] == text["prompt"]
        assert {text["chosen"], text["rejected"]} <= set(row["responses"])
        noted_row = rows.loc[text["split"], text["step"], text["pair"]]
        assert (noted_row.file, noted_row.row) == (text["file"], text["row"])
        for name in ("margin", "logp_chosen", "ref_logp_rejected", "length_rejected"):
            assert noted_row[name] == pytest.approx(text[name], rel=1e-6)
    sides = read_notebook(finished.path)
    assert len({t["pair"] for t in texts if t["split"] == "eval"}) == len(sides.pairs("eval"))
    assert len({t["pair"] for t in texts if t["split"] == "train"}) == len(sides.pairs("train"))
    assert sum(sides.sides["train"].counts[kind] for kind in KINDS) == len(sides.pairs("train"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_notes_the_same(finished, base, pairs, tmp_path, number):
    out = tmp_path / "killed"
    command = [sys.executable, "-c", _SLOW_RUN, *map(str, (base, pairs, out))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.time() + 600
    while not (out / PAIRS / part_name(6)).is_file():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    process.wait(timeout=600)
    process.stderr.close()
    assert not (out / "summary.json").exists()
    (out / PAIRS / ".part-00000008.parquet.partial").write_bytes(b"half")
    (out / PAIRS / part_name(15)).write_bytes(b"of a step after the checkpoint")
    rp.train(noted(base, pairs, out))
    pd.testing.assert_frame_equal(table(out), table(finished.path))
    assert not list((out / PAIRS).glob(".*"))
    for name in ("pairs.jsonl", TOKENS):
        assert (out / name).read_bytes() == (finished.path / name).read_bytes()


_SLOW_RUN = """
import sys, time
import redpencil.engine.loop as loop
from redpencil.cli.main import main
step = loop.train_step
def slow(*args, **kwargs):
    time.sleep(0.2)
    return step(*args, **kwargs)
loop.train_step = slow
base, pairs, out = sys.argv[1:]
sys.exit(main(["dpo", "--model", base, "--data", pairs, "--out", out, "--batch-size", "8",
    "--epochs", "4", "--learning-rate", "1e-3", "--eval-fraction", "0.2", "--sample-prompts", "2",
    "--sample-tokens", "8", "--no-cache", "--eval-every", "2", "--checkpoint-every", "3"]))
"""


def test_begun_anew_nothing_old_is_left(base, pairs, tmp_path):
    mine = noted(base, pairs, tmp_path / "run", max_steps=4)
    rp.train(mine)
    first = table(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # as if killed before the first checkpoint
    (tmp_path / "run" / PAIRS / part_name(9)).write_bytes(b"of another life")
    rp.train(mine)
    pd.testing.assert_frame_equal(table(tmp_path / "run"), first)


@pytest.mark.parametrize(
    "options",
    [
        {"activation_checkpointing": "on"},
        {"max_tokens": 130},
        {"scoring": "oracle"},
    ],
)
def test_how_a_step_is_computed_changes_rounding_only(base, pairs, tmp_path, options):
    rp.train(noted(base, pairs, tmp_path / "run", max_steps=4, schedule="constant", **options))
    plain = rp.train(noted(base, pairs, tmp_path / "plain", max_steps=4, schedule="constant"))
    _alike(table(tmp_path / "run"), table(plain.path))


def _alike(one: pd.DataFrame, other: pd.DataFrame) -> None:
    keys = ["split", "step", "pair", "file", "row", "length_chosen", "length_rejected"]
    pd.testing.assert_frame_equal(one[keys], other[keys])
    for name in ("logp_chosen", "logp_rejected", "ref_logp_chosen", "ref_logp_rejected"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=0.02)


def test_a_step_that_ran_out_of_memory_is_noted_once(base, pairs, tmp_path, monkeypatch, capsys):
    """Its second micro-batch does not fit: both are computed anew, from smaller ones."""
    plain = rp.train(noted(base, pairs, tmp_path / "plain", max_steps=3, max_tokens=400))
    observed, calls = PairLog.observed, []

    def short_of_memory(log, task):
        inside = observed(log, task)

        def measure(model, batch):
            calls.append(batch)
            if len(calls) == 2:
                raise torch.OutOfMemoryError("made up")
            return inside.measure(model, batch)

        return replace(inside, measure=measure)

    monkeypatch.setattr(PairLog, "observed", short_of_memory)
    run = rp.train(noted(base, pairs, tmp_path / "run", max_steps=3, max_tokens=400))
    assert "memory ran out" in capsys.readouterr().err
    assert len(calls) > 2 * 3
    rows = table(run.path)
    assert not rows.duplicated(["split", "step", "pair"]).any()
    _alike(rows, table(plain.path))


def test_rows_by_themselves_have_the_same_pairs(base, pairs, tmp_path):
    run = rp.train(noted(base, pairs, tmp_path / "run", max_steps=4, group_prompts=False))
    rows = table(run.path)
    texts = [json.loads(line) for line in (run.path / "pairs.jsonl").open()]
    data = [json.loads(line) for line in pairs.open()]
    assert all(data[t["row"] - 1]["prompt"] == t["prompt"] for t in texts)
    assert not rows.duplicated(["split", "step", "pair"]).any()


def test_a_reward_model_notes_rewards(base, pairs, tmp_path):
    settings = {"batch_size": 8, "epochs": 2, "learning_rate": 3e-3, "eval_fraction": 0.2}
    mine = RewardRecipe(
        model=str(base), data=str(pairs), out=str(tmp_path / "run"), eval_every=4, **settings
    )
    run = rp.train(mine)
    rows = table(run.path)
    assert rows[["logp_chosen", "ref_logp_rejected"]].isna().all().all()
    np.testing.assert_allclose(rows.margin, rows.reward_chosen - rows.reward_rejected, atol=1e-6)
    trained = rows[rows.split == "train"].groupby("step").margin.mean()
    for r in run.metrics:
        if "loss" in r:
            assert trained[r["step"]] == pytest.approx(r["rewards/margins"], abs=1e-5)
    assert not (run.path / TOKENS).exists()
    assert {h.kind for h in read_notebook(run.path).pairs("train")} <= set(KINDS)


def test_without_held_out_pairs_training_ones_are_noted(base, pairs, tmp_path):
    run = rp.train(noted(base, pairs, tmp_path / "run", max_steps=4, eval_fraction=0))
    assert set(table(run.path).split) == {"train"}
    assert read_notebook(run.path).pairs("eval") == ()
    assert not (run.path / TOKENS).exists()


def test_sft_keeps_no_notebook(base, pairs, tmp_path):
    run = rp.train(
        rp.SftRecipe(model=str(base), data=str(pairs), out=str(tmp_path / "sft"), max_steps=1)
    )
    assert not (run.path / PAIRS).exists()


def test_tokens_carry_the_implicit_rewards(finished):
    views = read_tokens(finished.path)
    pairs = {h.pair: h for h in read_notebook(finished.path).pairs("eval")}
    assert views.keys() == {("eval", pair) for pair in pairs}
    texts = {
        t["pair"]: t
        for t in map(json.loads, (finished.path / "pairs.jsonl").open())
        if t["split"] == "eval"
    }
    for (_, pair), view in views.items():
        for side in ("chosen", "rejected"):
            pieces = getattr(view, side)
            assert "".join(text for text, _ in pieces) == texts[pair][side]
            reward = 0.1 * sum(nats for _, nats in pieces)
            assert reward == pytest.approx(getattr(pairs[pair], f"reward_{side}"), abs=2e-5)
            assert len(pieces) == getattr(pairs[pair], f"length_{side}")  # one a token here


def test_evaluations_that_cannot_be_read_do_not_stop_a_run(
    base, pairs, tmp_path, monkeypatch, capsys
):
    """The parts are spoilt when the tokens are to be written, after hours of training."""

    def spoilt(run, **options):
        for part in (run / PAIRS).iterdir():
            part.write_bytes(part.read_bytes()[:99])
        return read_notebook(run, **options)

    monkeypatch.setattr(pair_tokens, "read_notebook", spoilt)
    run = rp.train(noted(base, pairs, tmp_path / "run", max_steps=2))
    assert (run.path / "model" / "config.json").is_file()
    assert not (run.path / TOKENS).exists()
    said = " ".join(capsys.readouterr().err.split())
    assert "tokens.parquet is not written" in said
    assert "part-00000000.parquet cannot be read" in said


def test_what_fails_leaves_nothing_behind(base, pairs, tmp_path, monkeypatch):
    """Neither a model that went on in the other mode, nor half a file."""
    seen = []

    def watched(wiring, log):
        wiring.model.train()
        with monkeypatch.context() as m:
            m.setattr(pair_tokens, "path_logps", _no_memory)
            write_pair_tokens(wiring, log)
        seen.append(wiring.model.training)
        with monkeypatch.context() as m:
            m.setattr(pair_tokens.parquet, "write_table", _full_disk)
            with pytest.raises(OSError, match="made up"):
                write_pair_tokens(wiring, log)
        seen.append(sorted(p.name for p in wiring.folder.path.glob(".*partial")))

    monkeypatch.setattr(monitor, "write_pair_tokens", watched)
    rp.train(noted(base, pairs, tmp_path / "run", max_steps=2))
    assert seen == [True, []]


def _no_memory(*_args):
    raise torch.OutOfMemoryError("made up")


def _full_disk(_table, file, **_options):
    file.write(b"half")
    raise OSError("made up")


def test_what_a_model_thought_before_training_is_a_look(base, pairs, tmp_path):
    """A reward model that goes on from another's head; a policy that is not its reference."""
    few = {"max_steps": 2, "learning_rate": 1e-6, "eval_every": 2}

    def judge(model, out):
        settings = {"batch_size": 8, "eval_fraction": 0.2, **few}
        return rp.train(RewardRecipe(model=str(model), data=str(pairs), out=str(out), **settings))

    first = judge(base, tmp_path / "first")
    after = judge(first.model, tmp_path / "after")
    moved = rp.train(noted(base, pairs, tmp_path / "moved", max_steps=8)).model
    apart = rp.train(noted(moved, pairs, tmp_path / "apart", reference=str(base), **few))
    close = rp.train(noted(moved, pairs, tmp_path / "close", reference=str(moved), **few))
    for run, looks in ((first, 1), (after, 2), (apart, 2), (close, 1)):
        assert read_notebook(run.path).sides["eval"].looks.max() == looks, run.path
