"""The next round's data: exactly the rows that were wrong, as they stood in their files."""

import json
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from pyarrow import parquet

import redpencil as rp
from histories import row, write
from redpencil.cli.main import main
from redpencil.data.records import load_records
from redpencil.errors import UserError
from redpencil.folders.datafiles import file_hashes
from redpencil.notebook import read_notebook
from redpencil.notebook.schema import PAIRS, part_name
from redpencil.use.again import print_again, write_again
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


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "dpo --model RUN/model --data NEXT"),
        (
            {"beta": 0.2, "lora_rank": 4, "lora_alpha": 8.0, "label_smoothing": 0.0},
            "dpo --model RUN/model --data NEXT --beta 0.2 --lora-rank 4",
        ),
        (
            {"lora_rank": 4, "lora_alpha": 4.0, "max_grad_norm": 0.0, "max_steps": 9},
            "dpo --model RUN/model --data NEXT --lora-rank 4 --lora-alpha 4.0 --max-grad-norm 0.0",
        ),
        (
            {"stage": "reward", "centring": 0.1},
            "reward --model RUN/model --data NEXT --centring 0.1",
        ),
    ],
)
def test_the_next_round_is_named_with_how_this_one_trained(tmp_path, capsys, told, words):
    run = made(tmp_path, jsonl(tmp_path / "data.jsonl"), **told)
    print_again(write_again(run, tmp_path / "next.jsonl"))
    said = capsys.readouterr().out.replace(str(tmp_path / "next.jsonl"), "NEXT")
    said = " ".join(said.replace(str(run), "RUN").split())
    assert f"next redpencil {words} --out NEXT_RUN" in said


def test_what_a_damaged_notebook_lacks_is_said(tmp_path, capsys):
    run = made(tmp_path, jsonl(tmp_path / "data.jsonl"))
    (run / PAIRS / part_name(7)).write_bytes(b"PAR1 no table")
    found = write_again(run, tmp_path / "next.jsonl")
    assert found.pairs == len(WRONG)
    said = " ".join(capsys.readouterr().err.split())
    assert "the notebook is damaged, and pairs may be missing" in said
    assert part_name(7) in said


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


def test_labelled_rows_of_two_files_are_joined_and_checked(tmp_path):
    """The true ones lie in one file, the false ones in another, in which no pair begins."""
    folder = tmp_path / "labels"
    folder.mkdir()
    sides = {"a.jsonl": ("yes", True), "b.jsonl": ("no", False)}
    for name, (said, label) in sides.items():
        rows = [{"prompt": f"q{i}", "completion": f"{said} {i}", "label": label} for i in range(6)]
        jsonl(folder / name, rows)
    run = made(tmp_path, folder / "a.jsonl", wrong=(1, 4))
    recipe_of = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe_of, "data": str(folder)}))
    facts = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**facts, "files": file_hashes(str(folder))}))
    wanted = ["yes 1", "yes 4", "no 1", "no 4"]
    result = write_again(run, tmp_path / "one.jsonl")
    assert [r["completion"] for r in lines(tmp_path / "one.jsonl")] == wanted
    assert (result.rows, result.pairs) == (4, 2)
    moved = shutil.move(folder, tmp_path / "moved")
    write_again(run, tmp_path / "two.jsonl", data=str(moved))
    assert [r["completion"] for r in lines(tmp_path / "two.jsonl")] == wanted
    jsonl(tmp_path / "moved" / "b.jsonl", [{"prompt": "q", "completion": "?", "label": False}] * 6)
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"b\.jsonl changed since the run began"):
        write_again(run, tmp_path / "three.jsonl", data=str(moved))
    assert set(tmp_path.iterdir()) == before


def test_labelled_rows_to_evaluate_on_come_with_their_counterparts(tmp_path):
    """Though what the run was trained on are pairs."""
    rows = [
        {"prompt": f"q{i}", "completion": said, "label": label}
        for said, label in (("yes", True), ("no", False))
        for i in range(6)
    ]
    labels = jsonl(tmp_path / "labels.jsonl", rows)
    data = jsonl(tmp_path / "pairs.jsonl")
    run = made(tmp_path, data, eval_data=str(labels))
    margins = {0: -1.0, 1: 1.0, 2: -1.0}
    write(run, {12: [row("eval", 12, p, m, file=str(labels)) for p, m in margins.items()]})
    facts = json.loads((run / "data.json").read_text())
    files = file_hashes(str(data), str(labels))
    (run / "data.json").write_text(json.dumps({**facts, "files": files}))
    write_again(run, tmp_path / "again.jsonl", split="eval")
    found = [(r["prompt"], r["completion"]) for r in lines(tmp_path / "again.jsonl")]
    assert found == [("q0", "yes"), ("q2", "yes"), ("q0", "no"), ("q2", "no")]


SCORED = [
    {"prompt": "a", "responses": ["x", "", "y", "z"], "scores": [3, 9, 2, 1]},
    {"prompt": "b", "responses": ["u", "v"], "scores": [0, 1]},
    {"prompt": "c", "responses": ["k", "l"], "scores": [1, 0]},
    {"prompt": "d", "responses": ["s", "t", "s"], "scores": [1, 2, 3]},
]
"""Three pairs, one, one and three, of which one is between equal responses."""
OF_SCORED = [(1, "x", "y"), (1, "x", "z"), (1, "y", "z"), (2, "v", "u"), (3, "k", "l")]
OF_SCORED += [(4, "t", "s"), (4, "s", "t")]


def several(folder, data, wrong, **changed):
    """A run of the pairs in `OF_SCORED`, of which those numbered in `wrong` are stubborn."""
    run = made(folder, data, **changed)
    rows = [
        row("train", 9, p, -1.0 if p in wrong else 1.0, file=str(data), row=place)
        for p, (place, _, _) in enumerate(OF_SCORED)
    ]
    for path in (run / "pairs.parquet").iterdir():
        path.unlink()
    write(run, {9: rows})
    return run


def compared(path, columns=None):
    """What training would read there."""
    return [
        (r.responses[c.chosen], r.responses[c.rejected])
        for r in load_records(str(path), purpose="preference", columns=columns).records
        for c in r.comparisons
    ]


@pytest.mark.parametrize("wrong", [(1, 3), (0, 1, 2, 3), (3, 4), (0, 4, 5), (0, 2, 4, 5, 6)])
def test_of_several_responses_only_the_wanted_pairs_are_read(tmp_path, wrong):
    """Whether some rows keep all their pairs, none does, or each has one."""
    run = several(tmp_path, jsonl(tmp_path / "scored.jsonl", SCORED), wrong)
    result = write_again(run, tmp_path / "again.jsonl")
    wanted = [OF_SCORED[p][1:] for p in wrong]
    assert compared(tmp_path / "again.jsonl") == wanted
    assert (result.pairs, result.others) == (len(wrong), 0)
    columns = [set(r) for r in lines(tmp_path / "again.jsonl")]
    assert all(c == columns[0] for c in columns)


def test_pairs_that_cannot_be_told_apart_stay_together(tmp_path):
    """A row whose pairs are fewer in the run than in the data: all of them are read."""
    run = several(tmp_path, jsonl(tmp_path / "scored.jsonl", SCORED), (0, 3))
    part = run / "pairs.parquet" / "part-00000009.parquet"
    parquet.write_table(parquet.read_table(part).filter(pc.field("pair") != 1), part)
    result = write_again(run, tmp_path / "again.jsonl")
    assert compared(tmp_path / "again.jsonl") == [*(p[1:] for p in OF_SCORED[:3]), ("v", "u")]
    assert (result.pairs, result.others) == (2, 1)


def test_comparisons_under_another_name_are_narrowed_under_it(tmp_path):
    lists = ([[0, 2], [0, 3], [2, 3]], [[1, 0]], [[0, 1]], [[1, 0], {"chosen": 2, "rejected": 1}])
    rows = [{**r, "prefs": p} for r, p in zip(SCORED, lists, strict=True)]
    columns = {"comparisons": "prefs"}
    run = several(tmp_path, jsonl(tmp_path / "p.jsonl", rows), (1, 3, 6), columns=columns)
    result = write_again(run, tmp_path / "again.jsonl")
    assert result.columns == columns
    assert compared(tmp_path / "again.jsonl", columns) == [("x", "z"), ("v", "u"), ("s", "t")]
    nested = [{**r, "by": {"prefs": p}} for r, p in zip(SCORED, lists, strict=True)]
    columns = {"comparisons": "by.prefs"}
    run = several(tmp_path / "n", jsonl(tmp_path / "n.jsonl", nested), (1, 3), columns=columns)
    write_again(run, tmp_path / "n2.jsonl")
    assert compared(tmp_path / "n2.jsonl", columns) == [("x", "z"), ("v", "u")]


def test_files_of_several_kinds_are_written_under_our_names(tmp_path):
    """What a CSV file says has values under our names only; a file has one set of names."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.csv").write_text("question,chosen,rejected\nq1,a1,b1\nq2,a2,b2\n")
    jsonl(folder / "b.jsonl", [{"question": "q3", "chosen": "a3", "rejected": "b3"}])
    run = made(tmp_path, folder, columns={"prompt": "question"}, wrong=())
    places = [(folder / "a.csv", 1), (folder / "a.csv", 2), (folder / "b.jsonl", 1)]
    rows = [
        row("train", 12, p, -1.0, file=str(f), row=at) for p, (f, at) in enumerate(places, start=9)
    ]
    write(run, {12: rows})
    result = write_again(run, tmp_path / "again.jsonl")
    assert compared(tmp_path / "again.jsonl", result.columns) == [
        ("a1", "b1"),
        ("a2", "b2"),
        ("a3", "b3"),
    ]
    assert [r["prompt"] for r in lines(tmp_path / "again.jsonl")] == ["q1", "q2", "q3"]


def test_a_column_of_that_name_is_not_lost(tmp_path):
    """The reasons of an earlier round stay before the new ones; what is not ours is refused."""
    first = made(tmp_path, jsonl(tmp_path / "pairs.jsonl"))
    write_again(first, tmp_path / "one.jsonl")
    known = lines(tmp_path / "one.jsonl")
    second = made(tmp_path / "second", tmp_path / "one.jsonl", wrong=(0,))
    write_again(second, tmp_path / "two.jsonl")
    (only,) = lines(tmp_path / "two.jsonl")
    assert only["notebook"][:-1] == known[0]["notebook"]
    assert only["notebook"][-1]["pair"] == 0
    theirs = [{**r, "notebook": "my notes"} for r in ROWS]
    run = made(tmp_path / "third", jsonl(tmp_path / "theirs.jsonl", theirs))
    refused(run, tmp_path / "three.jsonl", 'row 2: a column "notebook" of its own')


def test_what_is_damaged_is_said(tmp_path):
    run = made(tmp_path, jsonl(tmp_path / "pairs.jsonl"))
    for path in (run / "pairs.parquet").iterdir():
        path.write_bytes(path.read_bytes()[:99])
    refused(run, tmp_path / "again.jsonl", r"part-00000004\.parquet cannot be read")


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
