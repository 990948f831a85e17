"""`redpencil check`: exit codes, JSON, what stands on screen."""

import json

import pytest

from patients import pair, write
from redpencil.cli.main import main

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
