"""docs/paper.md names functions and tests; every one of them exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")

FUNCTION = re.compile(r"`([\w/]+\.py):([\w.]+)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FILE = re.compile(r"`((?:examples/|tests/)?[\w/]+\.py)(?=`|:)")

FUNCTIONS = sorted(set(FUNCTION.findall(PAGE)))
TESTS = sorted(set(TEST.findall(PAGE)))


@cache
def names_in(path: Path) -> frozenset[str]:
    """Functions, classes and methods (`Class.method`) that a file defines."""
    defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, defined):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, defined)}
    return frozenset(names)


@pytest.mark.parametrize(("file", "name"), FUNCTIONS, ids=lambda value: value)
def test_a_named_function_exists(file: str, name: str) -> None:
    assert name in names_in(ROOT / "src" / "redpencil" / file)


@pytest.mark.parametrize(("file", "name"), TESTS, ids=lambda value: value)
def test_a_named_test_exists(file: str, name: str) -> None:
    assert name.startswith("test_") and name in names_in(ROOT / file)


def test_named_files_exist() -> None:
    for file in FILE.findall(PAGE):
        assert (ROOT / file).is_file() or (ROOT / "src" / "redpencil" / file).is_file(), file


def test_every_row_of_an_equation_is_held_by_a_test() -> None:
    """Tables whose last column is "held by" have at least one test in every row."""
    held = 0
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, flags=re.MULTILINE):
        header, _, *rows = table.splitlines()
        if "held by" in header:
            for row in rows:
                assert TEST.search(row), row
                held += 1
    assert held >= 20


def test_the_seven_equations_are_there() -> None:
    numbers = re.findall(r"^\| (\d) \|", PAGE, flags=re.MULTILINE)
    assert numbers == [str(n) for n in range(1, 8)]


def test_a_wrong_name_would_be_noticed() -> None:
    assert "dpo_loss" in names_in(ROOT / "src/redpencil/objectives/pairwise.py")
    assert "dpo_los" not in names_in(ROOT / "src/redpencil/objectives/pairwise.py")
    assert "ReferenceSamples.mixed" in names_in(ROOT / "src/redpencil/evals/frontier.py")
