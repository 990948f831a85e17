"""Rows, prompts, pairs, trees and what is held out are counted the same way everywhere, and parts
add up."""

import json
from pathlib import Path

import pytest

import redpencil as rp
from redpencil.cli.main import main
from redpencil.notebook import read_notebook
from redpencil.report.facts import data_facts
from redpencil.report.rundata import read_run
from redpencil.world.pairs import prefixes, sft_rows

LONGEST = 64
STARTS = prefixes(24, 1)
TEXTS = list(dict.fromkeys(row["completion"] for row in sft_rows(80, 0)))
MUCH = " ".join(STARTS[:12])


def pair_rows():
    """A prompt with 20 responses in 10 rows; two prompts that differ where they are cut; a pair of
    equals; an empty answer; an answer that no room is left for."""
    rows = [
        {"prompt": start, "chosen": TEXTS[2 * i], "rejected": TEXTS[2 * i + 1]}
        for i, start in enumerate(STARTS)
    ]
    rows += [
        {"prompt": STARTS[0], "chosen": TEXTS[i], "rejected": TEXTS[i + 1]}
        for i in range(30, 50, 2)
    ]
    for first in (STARTS[1], STARTS[2]):
        prompt = f"{first} {MUCH}"
        rows.append({"prompt": prompt, "chosen": TEXTS[3], "rejected": TEXTS[4]})
    rows.append({"prompt": STARTS[3], "chosen": TEXTS[5], "rejected": TEXTS[5]})
    rows.append({"prompt": STARTS[4], "chosen": "", "rejected": TEXTS[5]})
    rows.append({"prompt": "only here", "chosen": " ".join(TEXTS[:20]), "rejected": TEXTS[5]})
    return rows


def labelled_rows():
    """The same as rows with a label each, which are joined by prompt."""
    rows = []
    for row in pair_rows():
        sides = (("chosen", True), ("rejected", False))
        rows += [
            {"prompt": row["prompt"], "completion": row[side], "label": label}
            for side, label in sides
        ]
    return rows


def listed_rows():
    """Rows of several responses with comparisons."""
    many = {"prompt": STARTS[5], "responses": TEXTS[:4], "comparisons": [[0, 1], [2, 3], [0, 3]]}
    return [
        many,
        *(
            {
                "prompt": r["prompt"],
                "responses": [r["chosen"], r["rejected"]],
                "comparisons": [[0, 1]],
            }
            for r in pair_rows()
        ),
    ]


SHAPES = {"pairs": pair_rows, "labelled": labelled_rows, "listed": listed_rows}


@pytest.fixture(scope="module", params=SHAPES)
def trained(request, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    data = folder / "data.jsonl"
    rows = SHAPES[request.param]()
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = rp.DpoRecipe(
        model=str(base), data=str(data), out=str(folder / "run"), max_length=LONGEST,
        eval_fraction=0.3, max_steps=2, batch_size=8, sample_prompts=0, cache=False,
    )  # fmt: skip
    run = Path(rp.train(recipe).path)
    return base, data, run, json.loads((run / "data.json").read_text()), len(rows)


def said(capsys, *arguments):
    """What a command prints as JSON."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == (1 if arguments[0] == "check" else 0)  # it finds some
    return json.loads(capsys.readouterr().out)


def test_used_and_set_aside_are_all_rows(trained):
    _, _, run, facts, rows = trained
    assert facts["rows_read"] == rows
    assert facts["rows_used"] + sum(facts["set_aside"].values()) == rows
    dropped = [json.loads(line) for line in (run / "dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == len({(d["file"], d["row"]) for d in dropped}) > 0
    assert len(dropped) == rows - facts["rows_used"]
    shown = dict(data_facts(read_run(run)))
    assert (shown["Rows read"], shown["Rows used"]) == (f"{rows}", f"{facts['rows_used']}")


def test_the_data_check_counts_as_training_does(trained, capsys):
    base, data, _, facts, rows = trained
    found = said(capsys, "check", data, "--model", base, "--max-length", LONGEST, "--json")
    assert (found["rows_read"], found["kept"]) == (rows, facts["rows_used"])
    assert found["set_aside"] == facts["set_aside"]
    prompts = facts["train_prompts"] + facts["eval_prompts"]
    assert found["statistics"]["distinct_prompts"] == prompts


def test_what_is_held_out_is_the_same_to_every_command(trained, capsys):
    _, data, run, facts, _ = trained
    own = said(capsys, "eval", run, "--json")
    assert (own["prompts"], own["pairs"]) == (facts["eval_prompts"], facts["eval_pairs"])
    whole = said(capsys, "eval", run, "--data", data, "--json")
    assert whole["prompts"] == facts["train_prompts"] + facts["eval_prompts"]
    assert whole["pairs"] == facts["train_pairs"] + facts["eval_pairs"]
    noted = said(capsys, "note", run, "--json")
    assert noted["pairs"] == sum(noted["counts"].values()) == facts["eval_pairs"]
    assert len(read_notebook(run).pairs("eval")) == facts["eval_pairs"]
    assert len(read_run(run).after) == facts["eval_pairs"]


def test_accuracy_and_interval_are_the_same_in_eval_and_report(trained, capsys):
    _, _, run, _, _ = trained
    from redpencil.report.verdict import held_out_accuracy

    own, share = said(capsys, "eval", run, "--json"), held_out_accuracy(read_run(run))
    assert own["accuracy"] == pytest.approx(share.value, abs=1e-9)
    assert own["interval"] == pytest.approx([share.low, share.high], abs=1e-9)


def test_trees_are_told_from_prompts(base, tmp_path, capsys):
    """A prompt with 20 responses in 10 rows is two trees; prompts are counted, trees are said."""
    data = tmp_path / "data.jsonl"
    rows = [row for row in pair_rows() if row["prompt"] in STARTS][:34]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = rp.DpoRecipe(
        model=str(base), data=str(data), out=str(tmp_path / "run"), max_length=128,
        eval_fraction=0.0, max_steps=1, batch_size=2, sample_prompts=0, cache=False,
    )  # fmt: skip
    facts = json.loads((Path(rp.train(recipe).path) / "data.json").read_text())
    assert (facts["train_prompts"], facts["train_trees"]) == (24, 25)
    out = capsys.readouterr().out
    assert "train: 24 prompts, " in out and "trained on in 25 trees" in out
