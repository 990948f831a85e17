"""Arbitrary rows at the reader, the doctor and --fix: no traceback, and no row is lost."""

import contextlib
import gzip
import io
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from redpencil.data.columns import FIELDS
from redpencil.data.reading import Source
from redpencil.data.records import load_records
from redpencil.doctor.checks import Subject
from redpencil.doctor.examine import examine
from redpencil.doctor.fix import fix
from redpencil.doctor.show import print_diagnosis, print_fixed
from redpencil.errors import DataError

texts = st.sampled_from(
    [
        "",
        " ",
        "yes",
        "no",
        "no answer",
        "a</s>",
        "###",
        "\ud83d",
        "\ufffd",
        "fiancÃ©",
        "\x00\x1b",
        "\n\nHuman: q\n\nAssistant: a",
        "\n\nHuman: q\n\nAssistant: b",
        "word " * 5_000,
    ]
) | st.text(max_size=12)
numbers = st.integers() | st.floats() | st.booleans() | st.none() | st.just(10**400)
roles = st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "robot", ""])
message = st.fixed_dictionaries({"role": roles, "content": texts}) | st.fixed_dictionaries(
    {"from": roles, "value": texts}
)
anything = st.recursive(
    texts | numbers | message,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
contents = texts | st.lists(message, max_size=4)
answers = st.lists(contents, max_size=4)
names = st.sampled_from([*FIELDS, "score_chosen", "score_rejected", "id", ""])
FITTING = {
    **dict.fromkeys(("prompt", "chosen", "rejected", "completion"), contents),
    "responses": answers,
    "scores": st.lists(st.integers(1, 3) | st.none(), max_size=4),
    "comparisons": st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), max_size=4),
    "label": st.booleans(),
    "messages": st.lists(message, max_size=4),
    "probability": st.floats(0, 1),
    "score_chosen": numbers,
    "score_rejected": numbers,
    **dict.fromkeys(
        ("prompt_ids", "chosen_ids", "rejected_ids"), st.lists(st.integers(0, 3), max_size=3)
    ),
}
SHAPES = [
    ("prompt", "chosen", "rejected", "probability"),
    ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
    ("chosen", "rejected"),
    ("prompt", "responses", "scores"),
    ("prompt", "responses", "comparisons"),
    ("prompt", "completion", "label"),
    ("messages", "label"),
    ("prompt", "completion"),
    ("prompt_ids", "chosen_ids", "rejected_ids"),
]


def line_of(row):
    return json.dumps(row).encode()


def fitting(columns):
    return st.fixed_dictionaries({name: FITTING[name] for name in columns}).map(line_of)


broken = st.sampled_from(
    [
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"prompt": "\xff"}',
        b'{"a": 1, "a": 2}',
        b'{"prompt": "p", "prompt": "q", "chosen": NaN, "rejected": Infinity}',
        b'{"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"prompt": ['
        + b'{"role": "user", "content": "x", "y": ' * 150
        + b"0"
        + b"}" * 150
        + b"]}",
        b'{"a": ' + b"1" * 5_000 + b"}",
        b"  ",
        b"\x0c",
        b"\xef\xbb\xbf{}",
    ]
) | st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b" "))
wild = st.dictionaries(names, anything, max_size=6).map(line_of)
files = st.sampled_from(SHAPES).flatmap(
    lambda columns: st.lists(fitting(columns) | fitting(columns) | wild | broken, max_size=8)
)
purposes = st.sampled_from([None, "preference", "sft"])
DEEP = line_of({"prompt": "p", "chosen": "a", "rejected": "b"})


def read_strictly(spec, purpose):
    """What training does: all rows accounted for, or one DataError."""
    try:
        read = load_records(spec, purpose=purpose or "preference")
    except DataError:
        return None
    assert sum(map(len, read.origins)) + len(read.dropped) == read.rows_read
    return read


def treat(folder, spec, purpose, rows):
    """The doctor and --fix on one file of so many rows; it may be unreadable as a whole."""
    strict = read_strictly(spec, purpose)
    try:
        source = Source(spec, purpose)
    except DataError:
        assert strict is None
        return
    diagnosis = examine(Subject(source=source))
    aside = sum(diagnosis.set_aside.values())
    assert diagnosis.kept + aside + diagnosis.unreadable == diagnosis.rows_read == rows
    if strict is not None and source.purpose == (purpose or "preference"):
        lost = diagnosis.set_aside.get("not valid Unicode", 0)  # training says so at the tokenizer
        assert diagnosis.unreadable == 0
        assert diagnosis.kept <= sum(map(len, strict.origins)) <= diagnosis.kept + aside
        assert lost or diagnosis.kept == sum(map(len, strict.origins))
    json.loads(json.dumps(diagnosis.as_json()))
    print_diagnosis(diagnosis)
    out = folder / "fixed.jsonl"
    if diagnosis.unreadable == rows:
        with pytest.raises(DataError, match="every row is malformed"):
            fix(source, out)
        return
    fixed = fix(source, out)
    print_fixed(fixed)
    assert fixed.kept + sum(fixed.removed.values()) == rows
    assert len(out.read_bytes().splitlines()) == fixed.kept
    log = [json.loads(line) for line in fixed.log.read_bytes().splitlines()]
    assert sum(entry["action"] == "removed" for entry in log) == sum(fixed.removed.values())
    if fixed.kept:
        again = examine(Subject(source=Source(str(out), source.purpose)))
        assert again.rows_read == fixed.kept and again.unreadable == 0
        gone = {"duplicate", "identical-pair", "empty-response", "unreadable-row", "not-unicode"}
        assert gone.isdisjoint(finding.key for finding in again.findings), again.findings
    for path in (out, fixed.log):
        path.unlink()


def quietly(folder, spec, purpose, rows):
    with contextlib.redirect_stdout(io.StringIO()):
        treat(folder, spec, purpose, rows)


any_settings = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(files, purposes, st.booleans())
@example([DEEP, b'{"a": ' + b"[" * 90_000 + b"]" * 90_000 + b"}"], None, False)
@any_settings
def test_any_lines(tmp_path, lines, purpose, packed):
    content = b"\n".join(lines) + b"\n"
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    rows = [line for line in content.split(b"\n") if line.strip()]
    head = rows[0].removeprefix(b"\xef\xbb\xbf") if content.startswith(b"\xef\xbb\xbf") else b"x"
    quietly(tmp_path, str(path), purpose, len(rows) - (not head.strip()))


@given(
    st.sampled_from(["a.json", "a.csv", "a.parquet", "a.ndjson", "a.json.gz"]),
    st.binary(max_size=60)
    | files.map(b"\n".join)
    | st.lists(st.lists(texts, min_size=3, max_size=4), max_size=5).map(
        lambda rows: (
            "prompt,chosen,rejected\n" + "\n".join(",".join(cells) for cells in rows)
        ).encode("utf-8", "replace")
    ),
    purposes,
)
@settings(any_settings, max_examples=150)
def test_any_file(tmp_path, name, content, purpose):
    """Rows are not known beforehand here: the doctor's own count must add up all the same."""
    path = tmp_path / name
    path.write_bytes(content)
    try:
        rows = Source(str(path), purpose).rows_read
    except DataError:
        assert read_strictly(str(path), purpose) is None
        return
    quietly(tmp_path, str(path), purpose, rows)
