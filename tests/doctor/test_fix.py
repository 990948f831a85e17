"""`--fix`: nothing is lost without a line in the log, and what was fixable is gone."""

import datetime
import json
import tempfile
from itertools import product
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from patients import diagnose, found, pair, write
from redpencil.data.reading import Source
from redpencil.doctor.fix import fix
from redpencil.errors import DataError


def mend(spec, out, purpose=None, columns=None):
    fixed = fix(Source(spec, purpose, columns), out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    log = [json.loads(line) for line in fixed.log.read_text(encoding="utf-8").splitlines()]
    assert fixed.kept == len(rows) and fixed.kept + sum(fixed.removed.values()) == fixed.rows_read
    assert sum(entry["action"] == "removed" for entry in log) == sum(fixed.removed.values())
    return fixed, rows, log


def test_what_goes_and_what_stays(tmp_path):
    one, two = pair(1), pair(2)
    kept = [pair(1, source="web", extra={"n": [1, None]}), pair(5, chosen="ende\u200b \ufffd")]
    rows = [
        kept[0],
        "{broken",
        one,
        two,
        two | {"chosen": two["rejected"], "rejected": two["chosen"]},
        pair(3, chosen=" "),
        pair(4, weight="heavy"),
        kept[1],
        pair(6, chosen="Yes.</s>", rejected="No.###\n"),
        pair(7, chosen="same</s>", rejected="same"),
        pair(8, chosen="Yes <|im_end|> but"),
    ]
    spec = write(tmp_path / "a.jsonl", rows)
    fixed, written, log = mend(spec, tmp_path / "b.jsonl")
    assert written == [*kept, pair(6, chosen="Yes.", rejected="No."), rows[-1]]
    assert fixed.removed == {
        "unreadable-row": 1,
        "duplicate": 1,
        "both-ways": 2,
        "empty response": 1,
        "mistyped-field": 1,
        "identical pair": 1,
    }
    assert fixed.changed == 1 and fixed.rows_read == 11
    reasons = {entry["row"]: entry["reason"] for entry in log}
    assert reasons[3] == "duplicate" and reasons[4] == reasons[5] == "both-ways"
    changes = [e for e in log if e["action"] == "changed"]
    assert [(e["row"], e["column"], e["before"], e["after"], e["removed"]) for e in changes] == [
        (9, "chosen", "Yes.</s>", "Yes.", "</s>"),
        (9, "rejected", "No.###\n", "No.", "###\n"),
    ]


def test_the_fixed_file_has_no_fixable_finding(tmp_path):
    two = pair(2)
    rows = [
        pair(1),
        pair(1),
        two,
        two | {"chosen": two["rejected"], "rejected": two["chosen"]},
        "nonsense",
        {"prompt": "p"},
        pair(3, chosen=""),
        pair(4, rejected=pair(4)["chosen"]),
        pair(5, chosen="Sure.</s>"),
        pair(5, chosen="Sure."),
        pair(6, chosen="half \ud83d"),
        pair(7),
    ]
    spec = write(tmp_path / "a.jsonl", rows)
    assert len(found(diagnose(spec))) == 8
    mend(spec, tmp_path / "b.jsonl")
    after = diagnose(str(tmp_path / "b.jsonl"))
    assert not found(after) and after.kept == after.rows_read == 3


def test_a_stripped_answer_becomes_a_duplicate(tmp_path):
    """Duplicates are looked for in what is written, not in what was read."""
    spec = write(tmp_path / "a.jsonl", [pair(1, chosen="Yes.</s>"), pair(1, chosen="Yes.")])
    fixed, written, _ = mend(spec, tmp_path / "b.jsonl")
    assert fixed.removed == {"duplicate": 1} and written == [pair(1, chosen="Yes.")]


def test_their_columns_and_other_cells_stay(tmp_path):
    row = {
        "id": 3,
        "q": "1?",
        "answers": [{"text": "a</s>", "score": 2, "by": "x"}, {"text": "b", "score": 1}],
    }
    columns = {"prompt": "q", "responses": "answers.text", "scores": "answers.score"}
    spec = write(tmp_path / "a.jsonl", [row])
    _, written, _ = mend(spec, tmp_path / "b.jsonl", columns=columns)
    expected = json.loads(json.dumps(row).replace("</s>", ""))
    assert written == [expected]


def test_conversations_lose_the_ends_of_assistant_turns_only(tmp_path):
    talk = [
        {"from": "human", "value": "What is </s>"},
        {"from": "gpt", "value": "An end.</s>"},
        {"from": "human", "value": "So </s>"},
        {"from": "gpt", "value": "Yes.<|im_end|>\n"},
    ]
    spec = write(tmp_path / "a.jsonl", [{"conversations": talk}])
    _, written, _ = mend(spec, tmp_path / "b.jsonl")
    said = [turn["value"] for turn in written[0]["conversations"]]
    assert said == ["What is </s>", "An end.", "So </s>", "Yes."]


def test_rows_that_depend_on_others_stay(tmp_path):
    """Labels without a counterpart are no defect of the row; SFT takes them."""
    rows = [{"prompt": f"p{n}", "completion": "x", "label": n % 2 == 0} for n in range(4)]
    fixed, written, _ = mend(write(tmp_path / "a.jsonl", rows), tmp_path / "b.jsonl")
    assert written == rows and not fixed.removed


def test_a_ranking_is_not_thrown_away_for_one_comparison(tmp_path):
    rows = [
        {"prompt": "p", "responses": ["a", "b", "c"], "ranking": [1, 2, 3]},
        {"prompt": "p", "responses": ["b", "a", "c"], "ranking": [1, 2, 3]},
    ]
    spec = write(tmp_path / "a.jsonl", rows)
    assert "both-ways" in found(diagnose(spec))
    _, written, _ = mend(spec, tmp_path / "b.jsonl")
    assert written == rows


def test_csv_becomes_values(tmp_path):
    text = (
        "prompt,completion,label,weight,note\n"
        'p1,yes</s>,1,2.5,n\np1,no,false,,\n"[{""role"":""user"",""content"":""q""}]",a,true,,\n'
    )
    (tmp_path / "a.csv").write_text(text)
    before = diagnose(str(tmp_path / "a.csv"))
    _, written, _ = mend(str(tmp_path / "a.csv"), tmp_path / "b.jsonl")
    assert written == [
        {"prompt": "p1", "completion": "yes", "label": True, "weight": 2.5, "note": "n"},
        {"prompt": "p1", "completion": "no", "label": False, "weight": None, "note": ""},
        {
            "prompt": [{"role": "user", "content": "q"}],
            "completion": "a",
            "label": True,
            "weight": None,
            "note": "",
        },
    ]
    after = diagnose(str(tmp_path / "b.jsonl"))
    assert (after.kept, dict(after.set_aside)) == (before.kept, dict(before.set_aside))


def test_parquet_values_become_json(tmp_path):
    day = datetime.date(2024, 2, 29)
    table = pyarrow.Table.from_pylist([pair(1, day=day, picture=None)])
    parquet.write_table(table, tmp_path / "a.parquet")
    _, written, _ = mend(str(tmp_path / "a.parquet"), tmp_path / "b.jsonl")
    assert written == [pair(1, day="2024-02-29", picture=None)]
    table = pyarrow.Table.from_pylist([pair(1, picture=b"\x00")])
    parquet.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(DataError, match='column "picture": JSONL cannot hold bytes'):
        fix(Source(str(tmp_path / "c.parquet")), tmp_path / "d.jsonl")
    assert sorted(p.name for p in tmp_path.glob("d*")) == []


@pytest.mark.parametrize("taken", ["b.jsonl", "b.log.jsonl"])
def test_nothing_is_written_over(tmp_path, taken):
    spec = write(tmp_path / "a.jsonl", [pair(1)])
    (tmp_path / taken).write_text("mine")
    with pytest.raises(DataError, match="nothing is written over"):
        fix(Source(spec), tmp_path / "b.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", taken]
    assert (tmp_path / taken).read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"), [("b.csv", "ends in .jsonl"), ("no/b.jsonl", "folder")]
)
def test_where_nothing_can_be_written(tmp_path, name, message):
    spec = write(tmp_path / "a.jsonl", [pair(1)])
    with pytest.raises(DataError, match=message):
        fix(Source(spec), tmp_path / name)


def said(question, answer):
    return f"\n\nHuman: {question}\n\nAssistant: {answer}"


PLAIN = {"chosen": "The dog ran home.", "rejected": "The dog sat there."}
TALKS = [{"chosen": said(n, "yes"), "rejected": said(n, "no")} for n in "12"]
FLIPPED = {"chosen": PLAIN["rejected"], "rejected": PLAIN["chosen"]}
UNSTABLE = {  # what goes was most of the file, by which the file was told to be plain text
    "duplicates": [PLAIN, PLAIN, PLAIN, *TALKS],
    "contradictions": [PLAIN, PLAIN | {"chosen": "The dog ate."}, PLAIN, FLIPPED, *TALKS],
    "broken texts": [PLAIN, {"chosen": "a \ud83d", "rejected": "a b"}, *TALKS],
    "ends": [PLAIN, PLAIN | {"chosen": PLAIN["chosen"] + "</s>"}, PLAIN, *TALKS],
}


@pytest.mark.parametrize(
    ("what", "purpose"),  # SFT takes both answers of a contradiction
    sorted({*product(UNSTABLE, ("preference", "sft"))} - {("contradictions", "sft")}),
)
def test_a_second_fix_finds_nothing(tmp_path, what, purpose):
    """What is left when rows go may be read otherwise: here as transcripts, most being some now."""
    rows = UNSTABLE[what]
    spec = write(tmp_path / "a.jsonl", rows)
    fixed, written, log = mend(spec, tmp_path / "b.jsonl", purpose)
    assert written == TALKS and all(entry["file"] == str(spec) for entry in log)
    gone = [entry["row"] for entry in log if entry["action"] == "removed"]
    assert sorted(gone) == list(range(1, len(rows) - 1)), "rows are named as the user has them"
    assert fixed.changed == 0, "a row that lost an end and went is not among the changed"
    again, rewritten, log = mend(str(tmp_path / "b.jsonl"), tmp_path / "c.jsonl", purpose)
    assert rewritten == written and not again.removed and not log
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".jsonl"] * 5, "nothing else is left"


def test_a_mended_label_may_repeat_another_row(tmp_path):
    """What a row says once its label is mended, another one says already."""

    def mended(read):
        if read.origin.row != 3:
            return read.raw.cells, []
        return pair(1), [{"action": "changed", "reason": "suspect-label"}]

    spec = write(tmp_path / "a.jsonl", [pair(1), pair(2), pair(3)])
    fixed = fix(Source(spec), tmp_path / "b.jsonl", mended)
    written = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert written == [pair(1), pair(2)] and fixed.removed == {"duplicate": 1}
    log = [json.loads(line) for line in fixed.log.read_text().splitlines()]
    gone = {"action": "removed", "reason": "duplicate", "detail": "the same as row 1"}
    assert log[-1] == {"file": str(spec), "row": 3, **gone}


ROWS = [row for rows in UNSTABLE.values() for row in rows] + [{"chosen": "dog", "rejected": ""}]


@given(
    st.lists(st.sampled_from(ROWS), min_size=3, max_size=8),
    st.sampled_from(["preference", "sft"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_fixing_twice_is_fixing_once(rows, purpose):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = write(folder / "a.jsonl", rows)
        fixed, written, _ = mend(spec, folder / "b.jsonl", purpose)
        if written:
            again, rewritten, log = mend(str(folder / "b.jsonl"), folder / "c.jsonl", purpose)
            assert rewritten == written and not again.removed and not log and fixed.kept
