"""`--columns chosen=good`: their columns under our names, and CSV cells as values.

A path may be dotted ("6b.solution"); through a list it takes the field of each item, so
`responses=candidates.answer` makes a list of answers; an object may stand in its cell as text. A
column that is literally called so wins.
"""

from collections.abc import Mapping
from typing import Any

from redpencil.data.structures import value_in
from redpencil.errors import DataError, did_you_mean

FIELDS = (
    "prompt",
    "chosen",
    "rejected",
    "responses",
    "scores",
    "ranking",
    "comparisons",
    "completion",
    "label",
    "messages",
    "conversations",
    "system",
    "tools",
    "weight",
    "margin",
    "probability",
    "prompt_ids",
    "chosen_ids",
    "rejected_ids",
    "responses_ids",
    "completion_ids",
)
"""Every column that redpencil reads."""

NUMBERS = frozenset({"weight", "margin", "probability"})
LISTS = frozenset({"responses", "scores", "ranking", "comparisons", "tools"}) | {
    name for name in FIELDS if name.endswith("_ids")
}
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_ABSENT = object()


class ColumnMap:
    """Renames the columns of rows, and remembers which of the wanted ones were ever there."""

    def __init__(self, columns: Mapping[str, str] | None) -> None:
        self.columns = dict(columns or {})
        for name in self.columns:
            if name not in FIELDS:
                raise DataError(
                    f"--columns {name}={self.columns[name]}: redpencil reads no column "
                    f"{name!r}{did_you_mean(name, FIELDS)}"
                )
        self._unseen = set(self.columns)
        self._others: dict[str, None] = {}

    def apply(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row under our names; a column taken whole loses its own name."""
        if not self.columns:
            return row
        found = {name: _follow(row, path) for name, path in self.columns.items()}
        found = {name: value for name, value in found.items() if value is not _ABSENT}
        taken = {*self.columns, *self.columns.values()}
        if self._unseen:
            self._unseen -= found.keys()
            self._others.update(dict.fromkeys(_paths(row)))
        return {name: value for name, value in row.items() if name not in taken} | found

    def check(self, source: str) -> None:
        """Raises DataError if a wanted column was in no row at all."""
        for name in self.columns:
            if name in self._unseen:
                path = self.columns[name]
                hint = did_you_mean(path, self._others)
                raise DataError(f'{source}: --columns {name}={path}: no column "{path}"{hint}')


def _follow(value: Any, path: str) -> Any:
    if isinstance(value, str):
        value = value_in(value)
    if isinstance(value, Mapping):
        if path in value:
            return value[path]
        # The longest literal name first: "a.b" may be a column with a field "c".
        for at in reversed([i for i, c in enumerate(path) if c == "."]):
            if path[:at] in value:
                return _follow(value[path[:at]], path[at + 1 :])
        return _ABSENT
    if isinstance(value, list) and value:
        found = [_follow(item, path) for item in value]
        return _ABSENT if all(f is _ABSENT for f in found) else _none_for_absent(found)
    return _ABSENT


def _none_for_absent(values: list[Any]) -> list[Any]:
    return [None if value is _ABSENT else value for value in values]


def _paths(row: Mapping[str, Any]) -> list[str]:
    """Names that could have been meant: columns, and fields one level down."""
    names = [name for name in row if isinstance(name, str)]
    for name in list(names):
        value = row[name]
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, Mapping):
            names += [f"{name}.{field}" for field in inner if isinstance(field, str)]
    return names


def parse_cells(row: dict[str, Any]) -> dict[str, Any]:
    """CSV cells of our columns as values: numbers, lists, truth; an empty optional one is absent.

    What cannot be parsed stays a string: the shape then says what it wanted there.
    """
    for name in row.keys() & set(FIELDS):
        cell = row[name]
        if not isinstance(cell, str):
            continue
        if name in NUMBERS:
            row[name] = _number(cell)
        elif name in LISTS:
            row[name] = _list(cell) if cell.strip() else None
        elif name == "label":
            row[name] = _TRUTH.get(cell.strip().lower(), cell or None)
        elif name in ("system", "messages", "conversations") and not cell.strip():
            row[name] = None
    return row


def _number(cell: str) -> float | str | None:
    if not cell.strip():
        return None
    try:
        return float(cell)
    except ValueError:
        return cell


def _list(cell: str) -> Any:
    value = value_in(cell)
    return cell if value is None else value
