"""What a run says of its data before it begins: what is held out, and what is lost."""

import json

import pytest

from redpencil.errors import DataError
from redpencil.models.tokenizer import load_tokenizer
from redpencil.recipes.stages import make_recipe
from redpencil.stages.prepare import prepare
from redpencil.stages.rl_prompts import prepare_prompts


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs(count, **more):
    return [
        {"prompt": f"The plot {n}", "chosen": " was superb.", "rejected": " was dull.", **more}
        for n in range(count)
    ]


def prepared(base, data, *, max_length=64, stage="dpo", purpose="preference", **options):
    recipe = make_recipe(stage, {"model": str(base), "data": data, "out": "unwritten", **options})
    return prepare(recipe, purpose, load_tokenizer(str(base)), max_length)


@pytest.mark.parametrize(("rows", "held"), [(20, 4), (221, 44), (1000, 100), (2400, 120)])
def test_about_a_hundred_pairs_are_held_out(base, tmp_path, rows, held, capsys):
    made = prepared(base, write(tmp_path / "a.jsonl", pairs(rows)))
    assert made.facts["eval_pairs"] == held
    assert made.facts["train_pairs"] == rows - held
    said = " ".join(capsys.readouterr().out.split())
    assert "an accuracy will be known to about" in said
    asked = prepared(base, str(tmp_path / "a.jsonl"), eval_fraction=made.eval_fraction)
    assert asked.fingerprint == made.fingerprint


def test_several_files_are_one_data_set(base, tmp_path, capsys):
    one, two = write(tmp_path / "a.jsonl", pairs(12)), tmp_path / "b.jsonl"
    scored = [
        {"prompt": f"It {n}", "responses": [" is good.", " is bad."], "scores": [1, 0]}
        for n in range(16)
    ]
    made = prepared(base, [one, write(two, scored)], eval_fraction=0.0)
    assert made.facts["rows_read"] == made.facts["train_pairs"] == 28
    files = {r.origin.file for e in made.train for r in e.responses}
    assert files == {one, str(two)}
    whole = prepared(base, str(tmp_path / "*.jsonl"), eval_fraction=0.0)
    assert whole.fingerprint == made.fingerprint


def test_rows_lost_by_their_length_are_a_warning_with_the_remedy(base, tmp_path, capsys):
    long = [{**row, "chosen": " word" * (40 + n)} for n, row in enumerate(pairs(6))]
    data = write(tmp_path / "a.jsonl", pairs(10) + long)
    made = prepared(base, data, max_length=24)
    assert made.facts["set_aside"] == {"too long": 6}
    out = capsys.readouterr()
    said = " ".join((out.out + out.err).split())
    assert "6 of 16 rows are too long for --max-length 24" in said
    half, most = sorted(made.too_long)[2], max(made.too_long)
    assert f"--max-length {half} would keep half of them, {most} all" in said
    assert not prepared(base, data, max_length=most).too_long


def test_of_many_answers_the_long_one_goes_and_not_the_row(base, tmp_path, capsys):
    answers = [" good" * (n + 1) for n in range(13)]
    answers.insert(4, " word" * 90)
    row = {"prompt": "The plot", "responses": answers, "scores": list(range(14))}
    data = write(tmp_path / "a.jsonl", [row, {**row, "prompt": "It"}])
    made = prepared(base, data, max_length=40, eval_fraction=0.0)
    assert made.facts["set_aside"] == {}
    assert [len(e.responses) for e in made.train] == [13, 13]
    assert made.facts["train_pairs"] == 2 * 13 * 12 // 2
    assert any("2 responses of several were too long" in note for note in made.facts["notes"])


def test_labels_without_a_counterpart_are_one_sentence(base, tmp_path):
    rows = [{"prompt": f"p{n}", "completion": " a", "label": n % 2 == 0} for n in range(6)]
    with pytest.raises(DataError, match=r"no prompt has a true and a false response.*6 rows"):
        prepared(base, write(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Do", "input": "it"}, "Do\nit"),
        ({"instruction": "Do", "input": "", "output": "x"}, "Do"),
        ({"question": "Why", "chosen": "a", "rejected": "b"}, "Why"),
        ({"history": "Why", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, "Why"),
    ],
)
def test_prompts_of_shapes_of_others(base, tmp_path, row, prompt):
    rows = [row, {**row, next(iter(row)): "Another"}]
    options = {"model": str(base), "data": write(tmp_path / "a.jsonl", rows), "out": "unwritten"}
    recipe = make_recipe("rl", {**options, "reward": "answer", "eval_fraction": 0.0})
    made = prepare_prompts(recipe, load_tokenizer(str(base)), 400)
    assert made.train[0].content == prompt and row.items() <= made.train[0].row.items()
