"""docs/data.md says what the code does: its examples are read, its reasons are the code's."""

import ast
import json
import re
from pathlib import Path

import pytest

import redpencil
from redpencil.data.columns import FIELDS, ColumnMap
from redpencil.data.records import records_from_rows
from redpencil.data.shapes import SHAPES

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
PACKAGE = Path(redpencil.__file__).parent
SOURCES = (*sorted((PACKAGE / "data").glob("*.py")), PACKAGE / "stages" / "prepare.py")
REASON_AT = {"SetAside": 0, "Refused": 0, "Dropped": 1}
"""Which argument of these calls is the reason."""

BLOCK = re.compile(
    r"<!-- example: (?P<purpose>preference|sft)(?: (?P<columns>\S+))? -->\n"
    r"```(?P<kind>jsonl?)\n(?P<text>.*?)```",
    re.DOTALL,
)
EXAMPLES = list(BLOCK.finditer(PAGE))


def rows_of(example):
    text = example["text"]
    rows = [json.loads(line) for line in text.splitlines()] if example["kind"] == "jsonl" else None
    mapping = ColumnMap(_columns(example))
    made = [mapping.apply(row) for row in rows or [json.loads(text)]]
    mapping.check("docs/data.md")
    return made


def _columns(example):
    pairs = (example["columns"] or "").split(",")
    return dict(pair.split("=") for pair in pairs if pair)


def _name(example):
    line = PAGE[: example.start()].count("\n") + 1
    return f"line {line}"


def test_every_json_block_is_an_example():
    assert len(EXAMPLES) == len(re.findall(r"^```jsonl?$", PAGE, re.MULTILINE)) >= 10


@pytest.mark.parametrize("example", EXAMPLES, ids=_name)
def test_an_example_gives_records(example):
    read = records_from_rows(rows_of(example), example["purpose"])
    assert read.records and not read.dropped
    if example["purpose"] == "preference":
        assert all(record.comparisons for record in read.records)
        assert records_from_rows(rows_of(example), "sft").records, "preferences serve SFT too"
    if not example["columns"]:
        assert not [note for note in read.notes if "not used" in note]
    else:
        assert f"--columns {example['columns']}\n" in PAGE


def test_the_examples_compare_as_the_page_says():
    by_judgement = {}
    for example in EXAMPLES:
        for column in ("scores", "ranking", "comparisons", "label", "margin"):
            if f'"{column}"' in example["text"]:
                by_judgement[column] = records_from_rows(rows_of(example), "preference").records[0]
    pairs = {
        name: [(r.responses[c.chosen], r.responses[c.rejected]) for c in r.comparisons]
        for name, r in by_judgement.items()
    }
    both = [("4", "5"), ("four", "5")]
    assert all(pairs[name] == both for name in ("scores", "ranking", "comparisons", "label"))
    assert [c.probability for c in by_judgement["comparisons"].comparisons] == [1.0, 0.9]
    tools = by_judgement["margin"]
    (only,) = tools.comparisons
    assert (only.weight, only.margin, only.probability) == (2.0, 0.5, 0.9)
    assert tools.prompt[0] == {"role": "system", "content": "Use the tools."}
    assert tools.tools[0]["function"]["name"] == "weather"


def test_each_kind_of_shape_has_an_example():
    shown = {key for e in EXAMPLES for row in rows_of(e) for key in row}
    assert {s.columns for s in SHAPES if not shown.issuperset(s.columns)} == {
        ("prompt_ids", "responses_ids"),
        ("prompt_ids", "completion_ids", "label"),
        ("prompt_ids", "completion_ids"),
    }
    assert all(f"`{name}`" in PAGE or f'"{name}"' in PAGE for name in FIELDS)


def test_the_table_of_reasons_is_that_of_the_code():
    table = PAGE.split("| reason | meaning |")[1].split("\n\n")[0]
    listed = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(reasons_in_code())


def reasons_in_code():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    known = [_constants(tree) for tree in trees]
    everywhere = {name: texts for own in known for name, texts in own.items()}
    found = set()
    for tree, own in zip(trees, known, strict=True):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                at = REASON_AT.get(node.func.id)
                if at is not None:
                    found |= _reasons(node.args[at], everywhere | own)
    return found


def _constants(tree):
    """Names that are given texts in a module, constants and local ones, with all their texts."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            texts = _texts(node.value)
            if texts:
                found.setdefault(node.targets[0].id, set()).update(texts)
    return found


def _reasons(reason, constants):
    """What a reason may be; one that is only passed on (`aside.reason`) is none of its own."""
    if isinstance(reason, ast.Attribute):
        assert reason.attr in ("reason", "key"), ast.unparse(reason)
        return set()
    texts = constants.get(reason.id, set()) if isinstance(reason, ast.Name) else _texts(reason)
    assert texts, f"cannot tell the reason {ast.unparse(reason)}"
    return texts


def _texts(value):
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return {value.value}
    if isinstance(value, ast.IfExp):
        return _texts(value.body) | _texts(value.orelse)
    return set()
