"""The next round's data: exactly the rows that were wrong, as they stood in their files."""

import json
import shutil

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

import redpencil as rp
from histories import row, write
from redpencil.cli.main import main
from redpencil.errors import UserError
from redpencil.folders.datafiles import file_hashes
from redpencil.notebook import read_notebook
from redpencil.use.again import write_again
from tiny_runs import recipe

ROWS = [
    {
        "id": f"r{i}",
        "prompt": f"The plot {i}",
        "chosen": f" was superb {i}.",
        "rejected": f" {i}",
        "n": i,
    }
    for i in range(6)
]
WRONG = (1, 4)
"""Rows, from 0, of the stubborn pairs."""


def made(folder, data, *, wrong=WRONG, stored=True, **changed):
    """A run of six training pairs, of which some are stubborn."""
    run = folder / "run"
    told = {"stage": "dpo", "model": "m", "data": str(data), "out": str(run), **changed}
    write(
        run,
        {
            step: [
                row("train", step, p, -1.0 if p in wrong else 1.0, file=str(data), row=p + 1)
                for p in range(6)
            ]
            for step in (4, 9)
        },
    )
    (run / "recipe.yaml").write_text(yaml.safe_dump(told))
    facts = {"shape": "prompt / chosen / rejected (strings)"}
    files = {"files": file_hashes(str(data))} if stored else {}
    (run / "data.json").write_text(json.dumps({**facts, **files}))
    return run


def jsonl(path, rows=ROWS):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_column_survives_with_the_reason(tmp_path):
    run = made(tmp_path, jsonl(tmp_path / "pairs.jsonl"))
    result = write_again(run, tmp_path / "again.jsonl")
    rows = lines(tmp_path / "again.jsonl")
    assert [{k: v for k, v in r.items() if k != "notebook"} for r in rows] == [ROWS[1], ROWS[4]]
    (why,) = rows[0]["notebook"]
    assert (why["kind"], why["pair"], why["last_margin"], why["looks"]) == ("stubborn", 1, -1, 2)
    assert (result.rows, result.pairs, result.others, result.unchecked) == (2, 2, 0, False)


def test_other_kinds_of_files(tmp_path):
    table = tmp_path / "pairs.parquet"
    parquet.write_table(pa.Table.from_pylist(ROWS), table)
    write_again(made(tmp_path / "a", table), tmp_path / "a.jsonl")
    assert lines(tmp_path / "a.jsonl")[0]["n"] == 1
    comma = tmp_path / "pairs.csv"
    comma.write_text(
        "question,chosen,rejected,w\n" + "".join(f"q{i},a{i},b{i},{i}.5\n" for i in range(6))
    )
    columns = {"prompt": "question", "weight": "w"}
    result = write_again(made(tmp_path / "b", comma, columns=columns), tmp_path / "b.jsonl")
    assert lines(tmp_path / "b.jsonl")[1]["weight"] == 4.5  # what was text is a number by now
    assert result.columns == {}
    run = made(tmp_path / "c", jsonl(tmp_path / "c.jsonl"), columns={"prompt": "id"})
    assert write_again(run, tmp_path / "c2.jsonl").columns == {"prompt": "id"}


def refused(run, out, match, **options):
    before = out.read_text() if out.exists() else None
    with pytest.raises(UserError, match=match):
        write_again(run, out, **options)
    assert (out.read_text() if out.exists() else None) == before
    assert not list(out.parent.glob(".*.partial"))


def test_nothing_is_written_over_or_made_up(tmp_path):
    data = jsonl(tmp_path / "pairs.jsonl")
    run, out = made(tmp_path, data), tmp_path / "again.jsonl"
    refused(run, jsonl(tmp_path / "other.jsonl"), "exists; nothing was written over")
    refused(run, tmp_path / "again.csv", "name a .jsonl file")
    refused(run, out, "has no held-out pairs", split="eval")
    refused(run, out, "no broken training pairs, so there is nothing to write", kind="broken")
    refused(tmp_path, out, "is not a run of redpencil")
    jsonl(data, [*ROWS[:5], {**ROWS[5], "chosen": "changed"}])
    refused(run, out, "changed since the run began")
    data.unlink()
    refused(run, out, "not there .* name where it lies now with --data")


def test_data_that_was_moved(tmp_path):
    data = jsonl(tmp_path / "pairs.jsonl")
    run = made(tmp_path, data)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(data, tmp_path / "elsewhere" / "pairs.jsonl")
    assert write_again(run, tmp_path / "one.jsonl", data=str(moved)).rows == 2
    assert write_again(run, tmp_path / "two.jsonl", data=str(tmp_path / "elsewhere")).rows == 2
    assert lines(tmp_path / "one.jsonl")[1]["id"] == "r4"


def test_a_run_that_did_not_keep_what_its_data_were(tmp_path):
    data = jsonl(tmp_path / "pairs.jsonl")
    run = made(tmp_path, data, stored=False)
    assert write_again(run, tmp_path / "again.jsonl").unchecked
    jsonl(data, ROWS[:2])
    refused(run, tmp_path / "more.jsonl", "has no row 5: it is not the run's data")


def test_labelled_rows_come_with_their_counterparts(tmp_path):
    rows = [
        {"prompt": "a", "completion": "x", "label": True},
        {"prompt": "b", "completion": "y", "label": True},
        {"prompt": "a", "completion": "z", "label": False},
        {"prompt": "b", "completion": "w", "label": False},
        {"prompt": "c", "completion": "v", "label": True},
        {"prompt": "c", "completion": "u", "label": False},
    ]
    run = made(tmp_path, jsonl(tmp_path / "labels.jsonl", rows), wrong=(1,))
    facts = json.loads((run / "data.json").read_text())
    facts["shape"] = "prompt / completion / label (strings), joined by prompt: every true one ..."
    (run / "data.json").write_text(json.dumps(facts))
    write_again(run, tmp_path / "again.jsonl")
    found = lines(tmp_path / "again.jsonl")
    assert [r["completion"] for r in found] == ["y", "w"]
    assert [r["notebook"][0]["kind"] for r in found] == ["stubborn", "counterpart"]


@pytest.fixture(scope="module")
def finished(base, pairs, tmp_path_factory) -> rp.Run:
    out = tmp_path_factory.mktemp("run") / "dpo"
    return rp.train(recipe(base, pairs, out, eval_every=4, learning_rate=3e-4))


def test_the_next_round_trains_on_exactly_the_stubborn_pairs(finished, tmp_path, capsys):
    """Rows hold three responses and so three pairs each; only the stubborn ones go on."""
    stubborn = {
        (t["prompt"], t["chosen"], t["rejected"])
        for t in lines(finished.path / "pairs.jsonl")
        if t["split"] == "train"
        and read_notebook(finished.path).pairs("train")[t["pair"]].kind == "stubborn"
    }
    assert 0 < len(stubborn) < len(read_notebook(finished.path).pairs("train"))
    out = tmp_path / "again.jsonl"
    assert main(["note", str(finished.path), "--again", str(out)]) == 0
    assert f"{len(stubborn)} stubborn training pairs" in capsys.readouterr().out
    command = ["dpo", "--model", finished.model, "--data", out, "--out", tmp_path / "next"]
    command += ["--eval-fraction", "0", "--no-cache", "--sample-prompts", "0"]
    assert main([str(part) for part in command]) == 0
    said = capsys.readouterr()
    assert "columns not used: notebook" in said.out + said.err
    trained = {
        (t["prompt"], t["chosen"], t["rejected"]) for t in lines(tmp_path / "next" / "pairs.jsonl")
    }
    assert trained == stubborn
    assert main(["note", str(finished.path), "--again", str(out)]) == 2
    assert "nothing was written over" in capsys.readouterr().err
