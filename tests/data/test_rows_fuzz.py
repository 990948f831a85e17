"""Arbitrary rows: DataError, or every row accounted for; never another exception."""

import json
from collections import Counter
from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redpencil.data.columns import FIELDS
from redpencil.data.records import load_records, records_from_rows
from redpencil.data.transcripts import parse_transcript
from redpencil.errors import DataError

texts = st.sampled_from(
    ["", " ", "a", "b", "a b", "\n\nHuman: a\n\nAssistant: b", "\n\nHuman:\n\nAssistant:", "é"]
) | st.text(max_size=6)
roles = st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "function_call"])
message = st.builds(lambda r, c: {"role": r, "content": c}, roles, texts) | st.builds(
    lambda r, c: {"from": r, "value": c}, roles, texts
)
turns = st.lists(message, max_size=4)
numbers = st.integers(-2, 5) | st.floats() | st.booleans() | st.none()
anything = st.recursive(
    texts | numbers | message,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
content = texts | turns | message
ids = st.lists(st.integers(0, 3), max_size=3)
FITTING = {
    **dict.fromkeys(("prompt", "chosen", "rejected", "completion"), content),
    "responses": st.lists(content, max_size=4),
    "scores": st.lists(numbers, max_size=4),
    "ranking": st.lists(st.integers(1, 3), max_size=4),
    "comparisons": st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), max_size=4),
    "label": st.booleans(),
    "messages": turns,
    "conversations": turns,
    "weight": st.floats(0, 9),
    "system": texts,
    **{n: ids for n in FIELDS if n.endswith("_ids") and n != "responses_ids"},
    "responses_ids": st.lists(ids, max_size=4),
}
SHAPES = [
    ["prompt", "chosen", "rejected"],
    ["chosen", "rejected"],
    ["conversations", "chosen", "rejected"],
    ["prompt", "responses", "scores"],
    ["prompt", "responses", "ranking", "weight"],
    ["prompt", "responses", "comparisons"],
    ["prompt", "completion", "label"],
    ["messages", "label", "system"],
    ["prompt", "completion", "weight"],
    ["messages"],
    ["prompt_ids", "chosen_ids", "rejected_ids"],
    ["prompt_ids", "responses_ids", "ranking"],
    ["prompt_ids", "completion_ids", "label"],
]
purposes = st.sampled_from(["preference", "sft"])
fitting_rows = st.sampled_from(SHAPES).flatmap(
    lambda names: st.lists(st.fixed_dictionaries({n: FITTING[n] for n in names}), max_size=4)
)
wild_rows = st.lists(st.dictionaries(st.sampled_from(FIELDS), anything, max_size=5), max_size=4)


def account(rows, purpose):
    try:
        read = records_from_rows(rows, purpose)
    except DataError:
        return
    places = [o.row for origins in read.origins for o in origins]
    places += [d.origin.row for d in read.dropped]
    assert sorted(places) == list(range(1, len(rows) + 1))
    assert read.rows_read == len(rows) and len(read.origins) == len(read.records)
    for record in read.records:
        assert len(record.responses) >= (2 if purpose == "preference" else 1)
        for c in record.comparisons:
            assert {c.chosen, c.rejected} <= set(range(len(record.responses)))
        kinds = {type(content) for content in (record.prompt, *record.responses)}
        assert len(kinds) == 1, kinds
        if isinstance(record.prompt, tuple):
            assert all(r[0]["role"] == r[-1]["role"] == "assistant" for r in record.responses)
        assert bool(record.comparisons) == (purpose == "preference")


@given(fitting_rows, purposes)
@settings(max_examples=500, deadline=None)
def test_fitting_rows_are_accounted_for(rows, purpose):
    account(rows, purpose)


@given(wild_rows, purposes)
@settings(max_examples=300, deadline=None)
def test_wild_rows_are_accounted_for(rows, purpose):
    account(rows, purpose)


@given(
    st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz"]),
    st.binary(max_size=60) | wild_rows.map(lambda rows: json.dumps(rows).encode()),
)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_arbitrary_files_end_in_one_message(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with suppress(DataError):
        load_records(str(tmp_path / name), purpose="preference")


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), texts), min_size=1, max_size=5))
def test_transcripts_are_rendered_back(said):
    names = {"user": "Human", "assistant": "Assistant"}

    def render(turns):
        return "".join(f"\n\n{names[role]}: {text}" for role, text in turns)

    text = render(said)
    turns = parse_transcript(text, Counter())
    # Markers inside a content split it; what is rendered is the text all the same.
    back = render([(t["role"], t["content"]) for t in turns])
    assert back == text or ":\n\n" in text
