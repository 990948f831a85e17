"""Where rows come from: files, folders, patterns of them, or data sets on the Hub.

What looks like a file is never looked up on the Hub, and nothing is read twice. Of a folder that
means something (a data set saved by `datasets`, a copy of a Hub repository, files named by splits)
the training rows are read. What was read otherwise than it stands is remarked.
"""

import glob
import math
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from redpencil.data.columns import ColumnMap, parse_cells
from redpencil.data.folders import data_files
from redpencil.data.formats import attempt_file, format_of
from redpencil.data.structures import structured
from redpencil.errors import DataError, did_you_mean
from redpencil.places import path_of
from redpencil.types import Origin

HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<split>[\w.-]+))?")


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in its file. cells: under its own names, or why it cannot be read; those
    of a CSV file are all text yet (`csv`), those of a row that was made anew are under our names
    (`ours`)."""

    origin: Origin
    cells: dict[str, Any] | DataError
    csv: bool = False
    ours: bool = False


Spec = str | Sequence[str]
"""A path, a pattern of paths, a name on the Hub, or several of them."""

Remarks = Counter[str]
"""What was read otherwise than it stands: a sentence, and in how many rows (0: not of rows)."""


def said(remarks: Remarks) -> list[str]:
    """The remarks as sentences."""
    return [f"{text} ({count:,} rows)" if count else text for text, count in remarks.items()]


def specs_of(spec: Spec) -> tuple[str, ...]:
    """One or several, as several."""
    return (spec,) if isinstance(spec, str) else tuple(spec)


def named(spec: Spec) -> str:
    """What a data set is called in a message."""
    specs = specs_of(spec)
    return specs[0] if len(specs) == 1 else f"{', '.join(specs[:-1])} and {specs[-1]}"


def read_rows(
    spec: Spec, *, columns: Mapping[str, str] | None = None
) -> Iterator[tuple[Origin, dict[str, Any]]]:
    """Rows of local files, of the data files in folders (in sorted order), or of Hub names.

    spec: a path or a pattern of paths, `name`, `org/name`, `org/name:split` (default split
    "train"), or several of them. columns maps our names to theirs, dots going into nested fields;
    see columns.py.

    Raises DataError for what is not there, holds no rows or is malformed.
    """
    mapping = ColumnMap(columns)
    for raw in attempt_rows(spec):
        if isinstance(raw.cells, DataError):
            raise raw.cells
        yield raw.origin, mapped(raw, mapping)
    mapping.check(named(spec))


def attempt_rows(spec: Spec, remarks: Remarks | None = None) -> Iterator[RawRow]:
    """The rows of `read_rows` as they stand in their files; malformed ones are in their place.

    remarks: takes what was read otherwise than it stands. Raises DataError for what is not there,
    holds no rows or cannot be read on.
    """
    remarks = Counter() if remarks is None else remarks
    for place in _places(spec, remarks):
        rows = _hub_rows(place) if isinstance(place, str) else _file_rows(place, remarks)
        for raw in rows:
            if isinstance(raw.cells, dict) and not raw.csv:
                raw = replace(raw, cells=plain(raw.cells, remarks))
            yield raw


def mapped(raw: RawRow, mapping: ColumnMap) -> dict[str, Any]:
    """A row's values under our names. A malformed row has none."""
    assert isinstance(raw.cells, dict), raw.cells
    cells = mapping.apply(structured(raw.cells))
    return parse_cells(cells) if raw.csv else cells


def plain(cells: dict[str, Any], remarks: Remarks) -> dict[str, Any]:
    """A row whose cells are text, numbers, lists and objects: NaN is nothing, bytes are text."""
    found: dict[str, Any] = {}
    for name, value in cells.items():
        if isinstance(value, float) and math.isnan(value):
            remarks[f'NaN in column "{name}" is read as missing'] += 1
            found[name] = None
        elif isinstance(value, bytes) and (text := _decoded(value)) is not None:
            remarks[f'bytes in column "{name}" are read as text'] += 1
            found[name] = text
        elif isinstance(value, np.generic):
            found[name] = value.item()
    return {**cells, **found} if found else cells


def _decoded(value: bytes) -> str | None:
    """Bytes as the text that they surely are."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _places(spec: Spec, remarks: Remarks) -> Iterator[Path | str]:
    """Local files, and names on the Hub."""
    seen: set[Path] = set()
    for one in specs_of(spec):
        path = path_of(one)
        found = [path] if path.exists() else _matching(one)
        if not found and _looks_local(one):
            raise DataError(f"{one}: no such file{_neighbours(path)}")
        if not found:
            yield one
        for file in (f for p in found for f in data_files(p, remarks)):
            if file.resolve() in seen:
                raise DataError(f"{file} is named twice among the data")
            seen.add(file.resolve())
            yield file


def _matching(spec: str) -> list[Path]:
    """What a pattern finds, sorted; nothing where it is none. Raises DataError if none matches."""
    if not set("*?[") & set(spec):
        return []
    found = sorted(glob.glob(str(path_of(spec)), recursive=True))
    if not found:
        raise DataError(f"{spec}: no file matches this pattern (seen from {Path.cwd()})")
    return [Path(name) for name in found]


def local_files(spec: Spec) -> list[Path]:
    """The files that are read of a data set; nothing for the Hub's."""
    return [place for place in _places(spec, Counter()) if isinstance(place, Path)]


def _file_rows(file: Path, remarks: Remarks) -> Iterator[RawRow]:
    name, is_csv, empty = str(file), format_of(file.name) == "csv", True
    for number, row in attempt_file(file, remarks):
        empty = False
        yield RawRow(Origin(name, number), row, is_csv)
    if empty:
        raise DataError(f"{name}: the file holds no rows")


def _looks_local(spec: str) -> bool:
    return (
        format_of(spec) is not None
        or Path(spec).suffix.lower() in (".gz", ".txt", ".tsv", ".zip", ".yaml", ".yml", ".xlsx")
        or spec.startswith(("/", "./", "../", "~", "."))
        or HUB_NAME.fullmatch(spec) is None
    )


def _neighbours(path: Path) -> str:
    """What the user may have meant, in the same folder."""
    folder = path.parent
    if not folder.is_dir():
        return f" (nor a folder {folder})"
    known = [p.name for p in folder.iterdir() if p.is_dir() or format_of(p.name)]
    visible = [name for name in known if not name.startswith(".")]
    return did_you_mean(path.name, visible) if len(visible) <= 20 else _nearest(path.name, visible)


def _nearest(name: str, known: list[str]) -> str:
    hint = did_you_mean(name, known)
    return hint if "did you mean" in hint else ""


def _hub_rows(spec: str) -> Iterator[RawRow]:
    match = HUB_NAME.fullmatch(spec)
    assert match is not None, spec
    data_set = _from_hub(spec, match["name"], match["split"] or "train")
    empty = True
    for number, row in enumerate(data_set, start=1):
        empty = False
        yield RawRow(Origin(spec, number), dict(row))
    if empty:
        raise DataError(f"{spec}: this split holds no rows")


def _from_hub(spec: str, name: str, split: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    missing = f"{spec}: found neither as a local path nor on the Hub{_near_here(name)}"
    if not _reachable(datasets.config.HF_ENDPOINT) and not _cached(name):
        raise DataError(f"{missing} (no connection to {datasets.config.HF_ENDPOINT})")
    try:
        return datasets.load_dataset(name, split=split)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise DataError(f"{missing} ({_first_line(error)})") from error
    except Exception as error:
        # The Hub's libraries raise many kinds: a wrong split, a missing configuration, no network.
        raise DataError(
            f"{spec}: no local path, and the Hub data set (split {split}) could not be loaded: "
            f"{_first_line(error)}"
        ) from error


def _reachable(endpoint: str) -> bool:
    """Whether the Hub's name resolves: without a network its libraries would retry for long."""
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname, None)
    except OSError:
        return False
    return True


def _cached(name: str) -> bool:
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    wanted = name.replace("/", "___").lower()
    return cache.is_dir() and any(p.name.lower() == wanted for p in cache.iterdir())


def _near_here(name: str) -> str:
    path = Path(name)
    folder = path.parent
    known = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return _nearest(path.name, [n for n in known if not n.startswith(".")])


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
