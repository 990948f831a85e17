"""Small repairs of a row's own cells: what nobody said is taken off the ends of answers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from redpencil.data.columns import FIELDS, parse_cells
from redpencil.data.shapes import Shape
from redpencil.data.sources import RawRow
from redpencil.data.structures import ROLES, structured, value_in
from redpencil.doctor.rows.patterns import end_of_words
from redpencil.errors import DataError

_END = 100
"""Characters of a changed text that the log shows; only its end is changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """A text of a column that lost its end. before, after: how it ended; removed: to the letter."""

    column: str
    before: str
    after: str
    removed: str


class Repairer:
    """Repairs rows of one shape. columns: our names to theirs, as `--columns` has them."""

    def __init__(self, shape: Shape, columns: Mapping[str, str]) -> None:
        names = {"chosen", "rejected", "responses", "completion"}
        if shape.kind in ("labelled", "messages") and "completion" not in shape.columns:
            names |= {"messages", "conversations"}
        needed = (*shape.columns, "responses") if shape.kind == "ranked" else shape.columns
        self._paths = [columns.get(name, name) for name in needed if name in names]
        self._columns = columns

    def repair(self, raw: RawRow) -> tuple[RawRow, tuple[Change, ...]]:
        """The row with its repairs, and what they were. A malformed row stays as it is."""
        if isinstance(raw.cells, DataError):
            return raw, ()
        cells: Any = typed(raw.cells, self._columns) if raw.csv else raw.cells
        changes: list[Change] = []
        for path in dict.fromkeys(self._paths):
            cells = _along(cells, path, partial(_content, cut=partial(_cut, path, changes)))
        return RawRow(raw.origin, cells, ours=raw.ours), tuple(changes)


def _cut(column: str, changes: list[Change], text: str) -> str:
    """A text without what nobody said at its end, which is entered among the changes."""
    end = end_of_words(text)
    if end < len(text):
        kept = text[:end]
        changes.append(Change(column, text[-_END:], kept[-_END:], text[end:]))
        return kept
    return text


def typed(cells: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """A CSV row's cells under their own names, as the values that they are read as."""
    values = structured(cells)
    for path in columns.values():
        # An object that columns lie in.
        name, dot, _ = path.partition(".")
        if dot and isinstance(cell := values.get(name), str):
            found = value_in(cell)
            values[name] = cell if found is None else found
    for ours in FIELDS:
        theirs = columns.get(ours, ours)
        if theirs in values:
            values[theirs] = parse_cells({ours: values[theirs]})[ours]
    return values


def _along(value: Any, path: str, change: Callable[[Any], Any]) -> Any:
    """The value with what lies at a dotted path changed; see columns.py for how paths are read."""
    if isinstance(value, Mapping):
        for name in _beginnings(path):
            if name in value:
                rest = path[len(name) + 1 :]
                inner = _along(value[name], rest, change) if rest else change(value[name])
                return value if inner is value[name] else {**value, name: inner}
        return value
    if isinstance(value, list):
        return [_along(item, path, change) for item in value]
    return value


def _beginnings(path: str) -> Iterator[str]:
    """The whole path, then what stands before each of its dots, longest first."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _content(value: Any, cut: Callable[[str], str]) -> Any:
    """A response, a list of them, or a conversation, whose assistant turns are changed."""
    if isinstance(value, str):
        return cut(value)
    if isinstance(value, list):
        return [_content(item, cut) for item in value]
    if isinstance(value, Mapping):
        role = value.get("role", value.get("from"))
        name = "content" if "content" in value else "value"
        said = value.get(name)
        if isinstance(role, str) and ROLES.get(role.strip().lower()) == "assistant":
            return {**value, name: cut(said)} if isinstance(said, str) else value
    return value
