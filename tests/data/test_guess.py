"""What is said of unknown columns: every `--columns` that is suggested can be read."""

import json
import re
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redpencil.cli.options import parse_columns
from redpencil.data.reading import Source
from redpencil.data.records import load_records, readable, records_from_rows, stream_records
from redpencil.data.shapes import ALIASES
from redpencil.data.sources import RawRow
from redpencil.errors import DataError
from redpencil.types import Origin

SUGGESTED = re.compile(r"--columns ('[^']*'|[^ ?()]+)")
SCORED = [{"answer": "x", "score": 2}, {"answer": "y", "score": 1}]


def refused(spec, purpose="preference", columns=None):
    with pytest.raises(DataError) as caught:
        load_records(spec, purpose=purpose, columns=columns)
    return str(caught.value)


def suggested(message):
    """The mapping of a message, as the shell and the command line would take it."""
    found = SUGGESTED.search(message)
    return parse_columns(shlex.split(found[0])[1]) if found else None


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


WORKS = [
    (
        {"instruction": "p", "candidates": SCORED},
        {"prompt": "instruction", "responses": "candidates.answer", "scores": "candidates.score"},
    ),
    (
        {"prompt": "p", "responses": SCORED},
        {"responses": "responses.answer", "scores": "responses.score"},
    ),
    (
        {"question": "p", "answer_matching_behavior": "a", "answer_not_matching_behavior": "b"},
        {
            "prompt": "question",
            "chosen": "answer_matching_behavior",
            "rejected": "answer_not_matching_behavior",
        },
    ),
    (
        {"source": "p", "candidates": ["a", "b"], "ratings": [1, 2]},
        {"prompt": "source", "responses": "candidates", "scores": "ratings"},
    ),
    ({"prompt": "p", "completion": "c", "is_correct": True}, {"label": "is_correct"}),
    ({"query": "p", "chosen": "a b", "rejected": "a c"}, {"prompt": "query"}),
    ({"my prompt": "p", "chosen": "a b", "rejected": "a c"}, {"prompt": "my prompt"}),
    (
        {"text": "p", "input": 5, "good": "a", "bad": "b"},
        {"prompt": "text", "chosen": "good", "rejected": "bad"},
    ),
    (
        {"input": 5, "text": "p", "good": "a", "bad": "b"},
        {"prompt": "text", "chosen": "good", "rejected": "bad"},
    ),
]


@pytest.mark.parametrize(("row", "wanted"), WORKS, ids=lambda x: ",".join(x))
def test_what_is_suggested_can_be_read(tmp_path, row, wanted):
    spec = write(tmp_path / "a.jsonl", row)
    assert suggested(refused(spec)) == wanted
    stream = stream_records(spec, purpose="preference", columns=wanted)
    assert list(stream) or [d.reason for d in stream.dropped] == ["unpaired label"]
    with pytest.raises(DataError) as said:
        Source(spec, "preference")
    assert suggested(str(said.value)) == wanted
    assert Source(spec, "preference", wanted).parts[0].shape.taken


NOTHING = [
    ({"question": "p", "ground_truth": "a", "6b": {"is_correct": True}}, ["chosen", "question"]),
    ({"source": ["p"], "rouge_scores": [1], "target": ["a"], "source_labels": [1]}, ["source"]),
    ({"question": "p", "chosen": 5, "bad": 6}, ["rejected", "question"]),
    ({"prompt": "p", "completion": "c", "is_correct": "perhaps"}, ["SFT", "need"]),
    ({"prompt": "p", "candidates": [{"answer": "x"}, {"answer": "y"}]}, ["without scores"]),
    ({"a": 1, "b": 2}, ["none of the known shapes", "docs/data.md", "--columns", "a, b"]),
    ({"movie_id": 1, "review": "x", "rating": 3}, ["none of the known shapes", "docs/data.md"]),
    ({"question": "p", "good=1": "a", "bad": "b"}, ["chosen"]),
]


@pytest.mark.parametrize(("row", "words"), NOTHING, ids=lambda x: ",".join(x))
def test_where_nothing_can_be_read_the_lack_is_said(tmp_path, row, words):
    message = refused(write(tmp_path / "a.jsonl", row))
    assert "did you mean" not in message and "messages / label" not in message
    assert all(word in message for word in words), message


def test_a_column_that_cannot_be_the_prompt_is_no_obstacle():
    row = {"input": 5, "chosen": "one two", "rejected": "one three"}
    assert len(records_from_rows([row], "preference").records) == 1


def test_what_the_user_named_stays_and_is_called_by_its_name(tmp_path):
    row = {"question": "p", "answer_matching_behavior": "a", "answer_not_matching_behavior": "b"}
    spec = write(tmp_path / "a.jsonl", row)
    message = refused(spec, columns={"prompt": "question"})
    assert suggested(message) == WORKS[2][1]
    message = refused(
        write(tmp_path / "b.jsonl", {"question": "p", "truth": "a"}), columns={"prompt": "question"}
    )
    assert message.endswith("the columns are: question, truth")


def test_data_for_sft_say_so(tmp_path):
    spec = write(tmp_path / "a.jsonl", {"question": "p", "answer": "a"})
    message = refused(spec)
    assert "for SFT" in message
    assert load_records(spec, purpose="sft", columns=suggested(message)).records


def test_csv_cells_are_tried_as_values(tmp_path):
    (tmp_path / "a.csv").write_text("query,reply,thumbs_up\np,a,true\np,b,false\n")
    columns = suggested(refused(str(tmp_path / "a.csv")))
    assert columns == {"prompt": "query", "completion": "reply", "label": "thumbs_up"}
    read = load_records(str(tmp_path / "a.csv"), purpose="preference", columns=columns)
    assert len(read.records) == 1


def test_rows_inside_of_an_object(tmp_path):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": rows}))
    assert 'the rows are under "data"' in refused(str(tmp_path / "a.json"))


def test_real_data(shared_data):
    ranked = shared_data / "komt-korean-ranked" / "ranked.jsonl"
    columns = suggested(refused(str(ranked)))
    assert len(load_records(str(ranked), purpose="preference", columns=columns).records) == 24
    evals = shared_data / "anthropic-evals"
    columns = suggested(refused(str(evals)))
    assert len(load_records(str(evals), purpose="preference", columns=columns).records) == 2000
    for name in ("gsm8k-solutions/solutions.jsonl", "scitldr/dev.jsonl"):
        assert suggested(refused(str(shared_data / name))) is None


NAMES = sorted({*ALIASES, *(name for names in ALIASES.values() for name in names)})
VALUES = st.sampled_from(
    ["a", "b c", 1, True, ["x", "y"], [1, 2], [2], SCORED, {"text": "t"}, None, "",
     [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]]
)  # fmt: skip


ROWS = st.lists(
    st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=5), min_size=1, max_size=3
)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.sampled_from(["preference", "sft"]))
def test_any_suggestion_can_be_read(rows, purpose):
    try:
        records_from_rows(rows, purpose)
    except DataError as error:
        columns = suggested(str(error))
        if columns and "OURS" not in columns:
            raw = [RawRow(Origin("rows", n), row) for n, row in enumerate(rows, start=1)]
            meant = "sft" if "for SFT it is" in str(error) else purpose
            assert readable(raw, columns, meant)
