"""The brief at the head of a run: records pass unchanged, counts add up, and nothing stops it."""

import json

import numpy as np
import pytest

import redpencil as rp
from redpencil.data.prompts import Prompt, PromptSet
from redpencil.data.records import stream_records
from redpencil.doctor.brief import SAMPLED_PAIRS, Brief, brief_of_prompts, tell
from redpencil.doctor.numbers.statistics import Statistics
from redpencil.types import Dropped, Origin
from tiny_runs import recipe


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def row(number, **cells):
    return {"prompt": f"p{number}", "chosen": f"good {number}", "rejected": f"bad {number}"} | cells


@pytest.fixture
def data(tmp_path):
    """40 pairs; then a copy of the first, one turned round, and one with an empty answer."""
    rows = [row(n) for n in range(40)]
    turned = row(1, chosen="bad 1", rejected="good 1")
    return write(tmp_path / "pairs.jsonl", [*rows, row(0), turned, row(50, chosen=" ")])


def seen(brief, records):
    passed = list(brief.watch(records))
    untaken = [Dropped(passed[4].origin, "too long")]
    rows_read, dropped = records.rows_read, records.dropped
    return passed, brief.diagnosis("d", records.shape, rows_read, dropped, untaken)


def test_records_pass_and_rows_add_up(data):
    records = stream_records(data, purpose="preference")
    passed, diagnosis = seen(Brief(), records)
    assert [r.origin.row for r in passed] == list(range(1, 43))
    assert diagnosis.rows_read == 43
    assert diagnosis.set_aside == {"empty response": 1, "too long": 1}
    assert diagnosis.kept == 41
    found = {f.key: f for f in diagnosis.findings}
    assert [o.row for o in found["duplicate"].rows] == [41]
    assert [o.row for o in found["both-ways"].rows] == [2, 42]
    assert found["empty-response"].rows[0].row == 43
    # "good" and "bad" tell nearly all pairs.
    assert found["word-shortcut"].rows == ()
    assert diagnosis.statistics["distinct_prompts"] == 40
    json.dumps(diagnosis.as_json())


def test_rows_joined_by_prompt_are_counted_one_by_one(tmp_path):
    rows = [{"prompt": f"p{n // 2}", "completion": f"c{n}", "label": n % 2 == 0} for n in range(8)]
    records = stream_records(write(tmp_path / "d.jsonl", rows), purpose="preference")
    brief = Brief()
    passed = list(brief.watch(records))
    untaken = [Dropped(passed[1].origin, "too long")]
    diagnosis = brief.diagnosis("d", records.shape, 8, records.dropped, untaken)
    assert (diagnosis.rows_read, diagnosis.kept) == (8, 6)
    assert diagnosis.set_aside == {"too long": 2}


def test_a_check_that_fails_stops_nothing(data, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no more")

    monkeypatch.setattr(Statistics, "see", fail)
    passed, diagnosis = seen(Brief(), stream_records(data, purpose="preference"))
    assert len(passed) == 42
    assert diagnosis.kept == 41
    assert capsys.readouterr().err.count("RuntimeError in test_brief.py") == 1


def test_what_is_said_fits_in_a_few_lines(data, capsys):
    _, diagnosis = seen(Brief(), stream_records(data, purpose="preference"))
    tell(diagnosis)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 6
    assert lines[0].startswith("check     ")
    assert any("contradict each other" in line and "row 2)" in line for line in lines)
    assert "redpencil check d" in lines[-1]


def test_the_sample_for_words_stays_small(tmp_path):
    rows = [row(n) for n in range(3 * SAMPLED_PAIRS)]
    brief = Brief()
    for _ in brief.watch(stream_records(write(tmp_path / "d.jsonl", rows), purpose="preference")):
        pass
    (words,) = [c for c in brief._texts.checks if hasattr(c, "_sample")]
    assert 0 < len(words._sample.sampled()) <= SAMPLED_PAIRS


def test_prompts_of_rl_that_are_nearly_held_out(capsys):
    def prompt(number, text):
        ids = np.array([number], dtype=np.int32)
        return Prompt(
            ids=ids, content=text, prompt_key=str(number), row={}, origin=Origin("d", number)
        )

    asked = [f"How many apples has {name} after lunch?" for name in ("Ann", "Bob", "Cleo")]
    train = [prompt(n, text) for n, text in enumerate([*asked, "HOW many apples  has Dan?"])]
    held_out = [prompt(9, "How many apples has Dan?")]
    again = [Dropped(Origin("d", 8), "same prompt as an earlier row")]
    read = PromptSet(prompts=[*train, *held_out], dropped=again, rows_read=6)
    diagnosis = brief_of_prompts("d", read, train, held_out)
    assert diagnosis.kept == 5
    assert diagnosis.set_aside == {"same prompt as an earlier row": 1}
    (found,) = diagnosis.findings
    assert (found.key, [o.row for o in found.rows]) == ("prompt-nearly-in-evaluation", [3])
    tell(diagnosis)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("(first: d, row 3)")


def test_a_run_writes_its_findings(base, pairs, tmp_path, capsys):
    """The file has what `redpencil check --json` prints of the same checks."""
    run = rp.train(recipe(base, pairs, tmp_path / "run", max_steps=1, sample_prompts=0))
    written = json.loads((run.path / "findings.json").read_text())
    data = json.loads((run.path / "data.json").read_text())
    assert written["version"] == 1
    assert written["rows_read"] == data["rows_read"]
    assert written["kept"] + sum(written["set_aside"].values()) == written["rows_read"]
    assert written["statistics"]["distinct_prompts"] == 40
    assert f"redpencil check {pairs}" in capsys.readouterr().out


def test_a_reason_that_nobody_knows_does_not_stop_a_run(capfd):
    brief = Brief()
    list(brief.watch([]))
    dropped = [Dropped(Origin("f", 1), "quite unheard of")]
    found = brief.diagnosis("f", "paired", 2, [], dropped)
    assert (found.kept, found.set_aside) == (1, {"quite unheard of": 1})
    said = " ".join(capfd.readouterr().err.split())
    assert "the run goes on without it" in said
    assert "AssertionError in reasons.py, line" in said
