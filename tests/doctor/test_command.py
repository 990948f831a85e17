"""`redpencil check`: exit codes, JSON, what stands on screen."""

import json
import shutil

import pytest

import redpencil as rp
from patients import pair, write
from redpencil.cli.main import main
from tiny_runs import recipe

KEYS = {
    "version",
    "source",
    "shape",
    "rows_read",
    "kept",
    "set_aside",
    "unreadable",
    "clean",
    "findings",
    "statistics",
}
FINDING = {
    "key",
    "group",
    "severity",
    "title",
    "text",
    "count",
    "of",
    "rows",
    "example",
    "why",
    "advice",
}


def check(*arguments):
    return main(["check", *map(str, arguments)])


@pytest.fixture
def clean(tmp_path):
    return write(tmp_path / "clean.jsonl", [pair(n) for n in range(6)])


@pytest.fixture
def sick(tmp_path):
    rows = [pair(0), pair(1), pair(1), pair(2, chosen="\x1b[31mred\u202e [bold]x[/bold]</s>")]
    return write(tmp_path / "sick.jsonl", rows)


def test_exit_codes(tmp_path, clean, sick, capsys):
    assert check(clean) == 0
    assert check(sick) == 1
    assert check(tmp_path / "none.jsonl") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "no such file" in error
    assert check(write(tmp_path / "b.jsonl", ["{", "["])) == 2
    assert "none of the 2 rows can be read" in capsys.readouterr().err


def test_json_is_all_that_stands_on_stdout(sick, capsys):
    assert check(sick, "--json") == 1
    seen = json.loads(capsys.readouterr().out)
    assert set(seen) == KEYS and seen["version"] == 1 and seen["clean"] is False
    assert seen["kept"] + sum(seen["set_aside"].values()) + seen["unreadable"] == seen["rows_read"]
    for finding in seen["findings"]:
        assert set(finding) == FINDING
        assert finding["title"] and finding["text"] and finding["why"] and finding["advice"]
        assert finding["group"] in ("structure", "preference", "statistics")
        assert len(finding["rows"]) <= 20
    severities = [f["severity"] for f in seen["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


@pytest.mark.parametrize("options", [(), ("--columns", "chosen=gone"), ("--max-length", "9")])
def test_json_says_what_could_not_be_read(tmp_path, clean, capsys, options):
    assert check(clean if options else tmp_path / "none.jsonl", "--json", *options) == 2
    told = capsys.readouterr()
    said = json.loads(told.out)
    assert said.keys() == {"version", "error"} and said["version"] == 1
    assert told.err.strip() == f"error: {said['error']}"


def test_the_screen_says_verdict_rows_and_advice(clean, sick, capsys):
    check(clean)
    assert capsys.readouterr().out.startswith("Clean")
    check(sick)
    out = capsys.readouterr().out
    assert out.startswith("Usable, but look: ")
    for part in ("[duplicate]", "row 3 is row 2 again", "[control-character]", "--fix OUT.jsonl"):
        assert part in out
    assert "\x1b" not in out and "\u202e" not in out and "[bold]" in out


def test_fix_from_the_command(tmp_path, sick, capsys):
    out = tmp_path / "out.jsonl"
    assert check(sick, "--fix", out) == 1
    assert "Wrote 3 of 4 rows" in capsys.readouterr().out
    assert check(sick, "--fix", out) == 2  # and nothing is read before that is said
    assert "nothing is written over" in capsys.readouterr().err
    assert check(sick, "--fix", tmp_path / "two.jsonl", "--json") == 1
    fixed = json.loads(capsys.readouterr().out)["fixed"]
    assert fixed["kept"] == 3 and fixed["removed"] == {"duplicate": 1} and fixed["changed"] == 1


def test_fix_is_refused_where_no_row_is_well_formed(tmp_path, capsys):
    rows = [pair(n, label=4) for n in range(5)]
    columns = "prompt=prompt,completion=chosen,label=label"
    data = write(
        tmp_path / "a.jsonl", [{k: v for k, v in r.items() if k != "rejected"} for r in rows]
    )
    assert check(data, "--columns", columns, "--fix", tmp_path / "out.jsonl") == 2
    assert "not the rows but how they are read (--columns)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_the_length_is_what_training_takes(base, pairs, tmp_path, capsys):
    """With and without --max-length: the numbers of a run at the same length."""
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    # The model takes 128 tokens. A single long response would be left out of its row.
    rows[3]["responses"] = [f"{'good ' * 200}{said}" for said in rows[3]["responses"]]
    data = write(tmp_path / "a.jsonl", rows)
    for length in ({}, {"max_length": 45}):
        options = (part for k, v in length.items() for part in (f"--{k.replace('_', '-')}", v))
        assert check(data, "--model", base, *options, "--json") == 1
        seen = json.loads(capsys.readouterr().out)
        out = tmp_path / f"run{len(length)}"
        run = rp.train(recipe(base, data, out, max_steps=1, sample_prompts=0, **length))
        capsys.readouterr()
        told = json.loads((run.path / "findings.json").read_text())
        assert seen["set_aside"]["too long"] >= 1
        assert (seen["kept"], seen["set_aside"]) == (told["kept"], told["set_aside"])
        advice = next(f["advice"] for f in seen["findings"] if f["key"] == "too-long")
        assert "The model takes 128 tokens at most" in advice
        assert all(int(limit) <= 128 for limit in seen["statistics"]["cut"])


def test_a_tokenizer_alone_serves(base, clean, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    for file in base.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "bare")
    check(clean, "--model", tmp_path / "bare")
    said = capsys.readouterr()
    assert "6 read, 6 to learn from" in said.out and "length that it takes is not known" in said.err


def test_one_pair_trains_nothing(tmp_path, capsys):
    assert check(write(tmp_path / "a.jsonl", [pair(1)])) == 1
    out = capsys.readouterr().out
    assert out.startswith("Not yet: next to nothing to learn from (1 error).")
    assert "the same everywhere" not in out
    check(write(tmp_path / "b.jsonl", [pair(1), pair(2)]))
    assert "next to nothing" not in capsys.readouterr().out


def test_rows_of_a_folder_name_their_file(tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "a.jsonl", [pair(n) for n in range(6)])
    labelled = [{"prompt": f"p{n}", "completion": "x", "label": True} for n in range(2)]
    write(folder / "b.jsonl", labelled)
    assert check(folder) == 1
    out = "".join(capsys.readouterr().out.split())  # paths are long, and wrapped
    assert f"{folder}/b.jsonl:1,2" in out
    assert "unused-columns" not in out


def test_the_help_says_that_lengths_need_a_model(capsys):
    with pytest.raises(SystemExit):
        check("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert "--max-length N tokens of a row that training will take; with --model" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-length", "9"), "--model"),
        (("--chat-template", "none"), "--model"),
        (("--columns", "chosen"), "not of the form"),
        (("--columns", "chosne=x"), 'did you mean "chosen"'),
        (("--for", "dpo"), "invalid choice"),
        (("--fxi", "a"), "--fix"),
        (("--model", "/nowhere/model"), "/nowhere/model"),
    ],
)
def test_wrong_options_are_one_sentence(clean, capsys, options, message):
    assert check(clean, *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error


def test_evaluation_data_and_purpose(tmp_path, clean, capsys):
    other = write(tmp_path / "eval.jsonl", [pair(3)])
    check(clean, "--eval-data", other, "--json")
    seen = json.loads(capsys.readouterr().out)
    overlap = next(f for f in seen["findings"] if f["key"] == "prompt-in-evaluation")
    assert [place["row"] for place in overlap["rows"]] == [4]
    check(clean, "--for", "sft", "--json")
    assert "best responses" in json.loads(capsys.readouterr().out)["shape"]


@pytest.mark.parametrize(
    "row", [pair(3, chosen=" "), pair(3, chosen=5), pair(3, rejected=pair(3)["chosen"])]
)
def test_evaluation_data_of_which_no_row_can_be_used(tmp_path, clean, capsys, row):
    other = write(tmp_path / "eval.jsonl", [row] * 3)
    assert check(clean, "--eval-data", other) == 2
    error = capsys.readouterr().err
    assert f"--eval-data {other}: none of its rows can be used" in error
    assert error.count("\n") == 1 and "Traceback" not in error
