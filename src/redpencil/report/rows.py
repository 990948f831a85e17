"""Values of a run's files: numbers that may be absent, and files that may be half written."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Row = Mapping[str, Any]


def number(row: Row, name: str) -> float | None:
    """The finite number under `name`, or None."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond any float
        return None


def whole(row: Row, name: str) -> int | None:
    """The number under `name` without its decimals, or None."""
    value = number(row, name)
    return None if value is None else int(value)


def mapping(row: Row, name: str) -> Row:
    """The mapping under `name`; an empty one where there is none."""
    value = row.get(name)
    return value if isinstance(value, Mapping) else {}


def text(value: object) -> str:
    """A text as it is, nothing as "", anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def difference(a: float | None, b: float | None) -> float | None:
    """a - b where both are known."""
    return None if a is None or b is None else a - b


def present(values: Sequence[float | None]) -> list[float]:
    """Those that are known."""
    return [v for v in values if v is not None]


def read_mapping(
    path: Path, parse: Callable[[str], object], damaged: list[str]
) -> dict[str, Any] | None:
    """The mapping that a file holds; None where there is none, with a line in `damaged` where it
    cannot be read."""
    if not path.is_file():
        return None
    try:
        content = parse(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError, yaml.YAMLError):
        content = None
    if isinstance(content, dict):
        return {str(key): value for key, value in content.items()}
    damaged.append(f"{path.name} cannot be read")
    return None


def read_lines(path: Path, damaged: list[str]) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file. The last line may be half a line: a run writes it, or was killed
    at it. Lines are split at newlines only, for texts may hold other separators."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows, bad = [], []
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif i < len(lines) - 1:
            bad.append(i + 1)
    if bad:
        damaged.append(f"{path.name}: {len(bad)} lines cannot be read, the first is line {bad[0]}")
    return rows
