"""Reading that does not stop: every row is a record or has its reason."""

import gzip
import json

import pytest

from patients import diagnose, found, pair, rows_of, write
from redpencil.data.reading import Source
from redpencil.data.records import load_records
from redpencil.errors import DataError


def test_bad_lines_are_rows_with_a_reason(tmp_path):
    deep = '{"prompt": ' + "[" * 300 + "]" * 300 + "}"
    spec = write(tmp_path / "a.jsonl", [pair(1), "{broken", "[1, 2]", pair(2), deep, pair(3)])
    diagnosis = diagnose(spec)
    assert (diagnosis.rows_read, diagnosis.kept, diagnosis.unreadable) == (6, 3, 3)
    finding = found(diagnosis)["unreadable-row"]
    assert rows_of(finding) == [2, 3, 5] and finding.severity == "error"
    assert "not valid JSON" in finding.example


def test_training_still_stops_at_the_first(tmp_path):
    spec = write(tmp_path / "a.jsonl", [pair(1), "{broken", pair(2)])
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: not valid JSON"):
        load_records(spec, purpose="preference")


def test_missing_mistyped_and_foreign_rows(tmp_path):
    rows = [
        pair(1),
        {"prompt": "p", "chosen": "c"},
        pair(2, rejected=None),
        pair(3, chosen=7),
        pair(4, chosen=[{"role": "robot", "content": "x"}]),
        pair(5, weight=-1),
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        pair(6),
    ]
    diagnosis = diagnose(write(tmp_path / "a.jsonl", rows))
    keys = found(diagnosis)
    assert rows_of(keys["missing-field"]) == [2, 3]
    assert rows_of(keys["mistyped-field"]) == [4, 5, 6]
    assert rows_of(keys["mixed-shapes"]) == [7]
    assert (diagnosis.kept, diagnosis.unreadable, diagnosis.rows_read) == (2, 6, 8)


def test_the_shape_is_that_of_most_rows(tmp_path):
    chats = [
        {"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "b"}]}
        for n in range(3)
    ]
    diagnosis = diagnose(write(tmp_path / "a.jsonl", [*chats, pair(1)]))
    assert diagnosis.shape.startswith("messages") and diagnosis.kept == 3
    assert rows_of(found(diagnosis)["mixed-shapes"]) == [4]


def test_a_prompt_column_in_some_rows_only(tmp_path):
    """Rows with one column more are not read as if they lacked it."""
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}]
    other = [talk[0], {"role": "assistant", "content": "bad"}]
    rows = [{"chosen": talk, "rejected": other}] * 3 + [pair(1)]
    diagnosis = diagnose(write(tmp_path / "a.jsonl", rows))
    assert rows_of(found(diagnosis)["mixed-shapes"]) == [4]


def test_optional_columns_are_no_other_shape(tmp_path):
    spec = write(tmp_path / "a.jsonl", [pair(1), pair(2, system="Be brief."), pair(3, weight=2.0)])
    diagnosis = diagnose(spec)
    assert diagnosis.kept == 3 and diagnosis.unreadable == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{broken", "also"], "row 1: not valid JSON"),
        ([{"movie": 1, "rating": 3}], "none of the known shapes"),
        ([{"prompt": "a", "chosen": "b"}, {"rejected": "c"}], 'no column|"prompt"'),
        ([], "holds no rows"),
    ],
)
def test_what_is_unreadable_as_a_whole_is_one_sentence(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        diagnose(write(tmp_path / "a.jsonl", rows))


def test_a_missing_file_and_a_damaged_one(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        Source(str(tmp_path / "none.jsonl"))
    whole = gzip.compress(json.dumps(pair(1)).encode() * 100)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match="damaged"):
        Source(str(tmp_path / "a.jsonl.gz"))


def test_csv_rows_are_lost_one_by_one(tmp_path):
    content = b'prompt,chosen,rejected\np1,a,b\np2,a\np3,\xff,b\np4,"a"x,b\np5,c,d\n'
    (tmp_path / "a.csv").write_bytes(content)
    diagnosis = diagnose(str(tmp_path / "a.csv"))
    assert rows_of(found(diagnosis)["unreadable-row"]) == [2, 3, 4]
    assert (diagnosis.kept, diagnosis.rows_read) == (2, 5)


def test_labels_are_joined_as_in_training(tmp_path):
    """Rows of four prompts in any order: the same records, the same rows set aside."""
    rows = [
        {"prompt": f"p{n % 4}", "completion": f"answer {n}", "label": n % 3 == 0} for n in range(17)
    ]
    rows += [{"prompt": "alone", "completion": "x", "label": True}]
    rows += [{"prompt": "p1", "completion": "", "label": True}]
    spec = write(tmp_path / "a.jsonl", rows)
    diagnosis = diagnose(spec)
    expected = load_records(spec, purpose="preference")
    assert diagnosis.kept == sum(map(len, expected.origins)) == 17
    assert diagnosis.set_aside == {"unpaired label": 1, "empty response": 1}

    from redpencil.doctor.joining import LabelledRows

    source = Source(spec)
    waiting = LabelledRows()
    for read in source.rows():
        if read.record:
            waiting.add(read)
    joined = [(record, origins) for record, origins, _ in waiting.joined() if record]
    assert [origins for _, origins in joined] == expected.origins
    for (record, _), other in zip(joined, expected.records, strict=True):
        assert record.prompt == other.prompt and record.responses == other.responses
        assert record.comparisons == other.comparisons


def test_purpose_sft_takes_the_best(tmp_path):
    spec = write(tmp_path / "a.jsonl", [pair(1), pair(2)])
    diagnosis = diagnose(spec, "sft")
    assert diagnosis.kept == 2 and "best responses" in diagnosis.shape


def test_half_a_surrogate_is_set_aside(tmp_path):
    spec = write(tmp_path / "a.jsonl", [pair(1), pair(2, chosen="half \ud83d")])
    diagnosis = diagnose(spec)
    assert diagnosis.set_aside == {"not valid Unicode": 1}
    assert rows_of(found(diagnosis)["not-unicode"]) == [2]


def test_columns_by_other_names(tmp_path):
    rows = [{"q": "1?", "a": {"good": "yes", "bad": "no"}}, {"q": "2?", "a": {"good": "so"}}]
    columns = {"prompt": "q", "chosen": "a.good", "rejected": "a.bad"}
    diagnosis = diagnose(write(tmp_path / "a.jsonl", rows), columns=columns)
    assert diagnosis.kept == 1 and rows_of(found(diagnosis)["missing-field"]) == [2]
    with pytest.raises(DataError, match="--columns prompt=z"):
        Source(str(tmp_path / "a.jsonl"), columns={"prompt": "z"})


def test_a_clean_file_has_no_finding(tmp_path):
    diagnosis = diagnose(write(tmp_path / "a.jsonl", [pair(n) for n in range(8)]))
    assert not found(diagnosis) and diagnosis.clean and diagnosis.kept == 8
