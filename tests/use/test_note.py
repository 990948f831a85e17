"""`redpencil note`: counts, the worst pairs with their texts, health; else one clear sentence."""

import json
import re
import shutil

import pytest

import redpencil as rp
from histories import row, write
from redpencil.cli.main import main
from redpencil.notebook import read_notebook
from redpencil.notebook.schema import PAIRS
from redpencil.report.rundata import read_run
from redpencil.report.verdict import judge
from tiny_runs import recipe


@pytest.fixture(scope="module")
def finished(base, pairs, tmp_path_factory) -> rp.Run:
    out = tmp_path_factory.mktemp("run") / "dpo"
    return rp.train(recipe(base, pairs, out, eval_every=2, epochs=4, learning_rate=3e-3))


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def shown(capsys, *words):
    assert main(["note", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_counts_pairs_and_health(finished, capsys):
    text = shown(capsys, finished.path, "--top", "1")
    side = read_notebook(finished.path).sides["eval"]
    counted = f"{len(side)} held-out pairs, evaluated at 9 steps from 0 to 16"
    assert counted in " ".join(text.split())  # where lines break depends on the folder's name
    for kind, number in side.counts.items():
        assert re.search(rf"{kind} +{number} ", text)
    for kind in ("stubborn", "broken", "corrected"):
        if side.counts[kind]:
            assert f"pair {side.of_kind(kind)[0].pair} " in text
    assert "Health" in text
    worries = [f for f in judge(read_run(finished.path)).worries if f.key == "parting"]
    for finding in worries:
        assert finding.text[:80] in text.replace("\n", "")  # the page's own words


def test_one_object(finished, capsys):
    found = json.loads(
        shown(capsys, finished.path, "--split", "train", "--kind", "right", "--json")
    )
    side = read_notebook(finished.path).sides["train"]
    assert found["counts"] == side.counts
    assert sum(found["counts"].values()) == found["pairs"] == len(side)
    assert list(found["shown"]) == ["right"]
    best = found["shown"]["right"][0]
    assert best["pair"] == side.of_kind("right")[0].pair
    texts = [json.loads(line) for line in (finished.path / "pairs.jsonl").open()]
    same = next(t for t in texts if (t["split"], t["pair"]) == ("train", best["pair"]))
    assert (best["prompt"], best["chosen"]) == (same["prompt"], same["chosen"])
    assert {f["key"] for f in found["health"]} >= {"displacement", "parting", "saturation"}


def test_texts_of_pairs_that_were_not_sampled_come_from_the_data(finished, capsys, tmp_path):
    kept = (finished.path / "pairs.jsonl").read_text().splitlines()
    known = [json.loads(line) for line in kept]
    words = (finished.path, "--split", "train", "--kind", "right", "--top", "9", "--json")
    before = json.loads(shown(capsys, *words))["shown"]["right"]
    try:
        left = [line for line, row in zip(kept, known, strict=True) if row["split"] == "eval"]
        (finished.path / "pairs.jsonl").write_text("\n".join(left) + "\n")
        after = json.loads(shown(capsys, *words))["shown"]["right"]
    finally:
        (finished.path / "pairs.jsonl").write_text("\n".join(kept) + "\n")
    assert after == before


@pytest.fixture
def unsampled(finished, pairs):
    """The run with none of its training pairs' texts in `pairs.jsonl`, and its data; both as they
    were afterwards."""
    texts, rows = (finished.path / "pairs.jsonl").read_text(), pairs.read_text()
    left = [line for line in texts.splitlines() if json.loads(line)["split"] == "eval"]
    (finished.path / "pairs.jsonl").write_text("\n".join(left) + "\n")
    yield pairs
    (finished.path / "pairs.jsonl").write_text(texts)
    pairs.write_text(rows)


def texts_of_right_ones(capsys, *words):
    found = json.loads(shown(capsys, *words, "--split", "train", "--kind", "right", "--json"))
    return [entry["prompt"] for entry in found["shown"]["right"]]


def test_another_row_s_texts_are_not_shown(finished, unsampled, capsys, tmp_path):
    """The file has other rows under the same numbers by now."""
    known = texts_of_right_ones(capsys, finished.path)
    assert None not in known
    moved = shutil.copy(unsampled, tmp_path / "as_it_was.jsonl")
    unsampled.write_text("".join(reversed(unsampled.read_text().splitlines(keepends=True))))
    assert texts_of_right_ones(capsys, finished.path) == [None] * len(known)
    words = (finished.path, "--split", "train", "--kind", "right")
    assert "could not be found in the data from here" in shown(capsys, *words)
    assert texts_of_right_ones(capsys, finished.path, "--data", moved) == known


def test_options_that_would_do_nothing_are_refused(finished, pairs, tmp_path, capsys):
    for words, part in (
        (["--data", pairs], "--data says where the texts of training pairs lie now"),
        (["--top", "1", "--again", tmp_path / "o.jsonl"], "--top says how many pairs are shown"),
        (["--data", tmp_path / "gone.jsonl", "--split", "train"], "gone.jsonl: the run's data"),
    ):
        assert main(["note", str(finished.path), *map(str, words)]) == 2
        assert part in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()


def test_a_damaged_notebook_is_not_called_absent(tmp_path, capsys):
    run = write(tmp_path / "run", {s: [row("eval", s, 0, 1.0)] for s in (10, 20)})
    (run / "recipe.yaml").write_text("stage: dpo\nmodel: m\ndata: d.jsonl\n")
    for part in (run / PAIRS).iterdir():
        part.write_bytes(part.read_bytes()[:99])
    assert main(["note", str(run)]) == 2
    said = capsys.readouterr().err
    assert "part-00000010.parquet cannot be read" in said
    assert "older redpencil" not in said


def test_how_often_pairs_were_looked_at_is_said(tmp_path, capsys):
    recipe_of = "stage: dpo\nmodel: m\ndata: d.jsonl\nout: run\n"
    for split, parts, part in (
        ("eval", {0: [0.0]}, "No pair was looked at yet"),
        ("train", {1: [0.0, 0.0]}, "No pair was looked at yet"),
        ("train", {1: [0.0, 0.0], 2: [None, 1.0]}, "looked at once (but for those of step 1)"),
        ("train", {2: [0.5, 1.0]}, "Each training pair was looked at once, before the step"),
        ("eval", {0: [0.0], 5: [1.0]}, "Each pair was looked at once since training began"),
    ):
        rows = {
            step: [row(split, step, p, m) for p, m in enumerate(margins) if m is not None]
            for step, margins in parts.items()
        }
        run = write(tmp_path / f"{split}{len(list(tmp_path.iterdir()))}", rows)
        (run / "recipe.yaml").write_text(recipe_of)
        assert part in " ".join(shown(capsys, run, "--split", split).split())


def test_terminal_codes_in_texts_do_not_reach_the_terminal(finished, capsys):
    path = finished.path / "pairs.jsonl"
    kept = path.read_text()
    rows = [
        {**json.loads(line), "chosen": "\x1b[2Jgone\x07 [red]x[/red]"} for line in kept.splitlines()
    ]
    try:
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        text = shown(capsys, finished.path)
    finally:
        path.write_text(kept)
    assert "\x1b[2J" not in text
    assert "[red]x[/red]" in text


def test_what_has_no_notebook_says_why(finished, base, pairs, tmp_path, capsys):
    sft = rp.SftRecipe(model=str(base), data=str(pairs), out=str(tmp_path / "sft"), max_steps=1)
    rp.train(sft)
    capsys.readouterr()
    for words, part in (
        ([tmp_path / "sft"], "a run of redpencil sft compares no pairs"),
        ([tmp_path], "is not a run of redpencil"),
        ([tmp_path / "nowhere"], "does not exist"),
        ([finished.path, "--kind", "wrong"], "invalid choice"),
        ([finished.path, "--top", "-1"], "--top -1 must not be negative"),
    ):
        assert main(["note", *map(str, words)]) == 2
        said = capsys.readouterr().err
        assert part in said
        assert "Traceback" not in said


def test_one_look_is_not_called_more(base, pairs, tmp_path, capsys):
    run = rp.train(recipe(base, pairs, tmp_path / "run", epochs=1))
    capsys.readouterr()
    assert "Each pair was looked at once since training began" in shown(capsys, run.path)
    text = shown(capsys, run.path, "--split", "train")
    assert "Each training pair was looked at once (but for those of step 1), before the" in text
