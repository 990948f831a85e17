"""Where rows come from: a file, a folder of files, or a data set on the Hub.

What looks like a file is never looked up on the Hub, and nothing is read twice.
"""

import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from redpencil.data.columns import ColumnMap, parse_cells
from redpencil.data.formats import READERS, attempt_file, format_of
from redpencil.data.structures import structured
from redpencil.errors import DataError, did_you_mean
from redpencil.places import path_of
from redpencil.types import Origin

HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<split>[\w.-]+))?")
FORMATS = ", ".join(f".{name}" for name in READERS) + " (each also .gz)"


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in its file. cells: under its own names, or why it cannot be read; those
    of a CSV file are all text yet (`csv`)."""

    origin: Origin
    cells: dict[str, Any] | DataError
    csv: bool = False


def read_rows(
    spec: str, *, columns: Mapping[str, str] | None = None
) -> Iterator[tuple[Origin, dict[str, Any]]]:
    """Rows of a local file, of the data files in a folder (in sorted order), or of a Hub name.

    spec: a path, or `name`, `org/name`, `org/name:split` (default split "train"). columns maps our
    names to theirs, dots going into nested fields; see columns.py.

    Raises DataError for what is not there, holds no rows or is malformed.
    """
    mapping = ColumnMap(columns)
    for raw in attempt_rows(spec):
        if isinstance(raw.cells, DataError):
            raise raw.cells
        yield raw.origin, mapped(raw, mapping)
    mapping.check(spec)


def attempt_rows(spec: str) -> Iterator[RawRow]:
    """The rows of `read_rows` as they stand in their files; malformed ones are in their place.

    Raises DataError for what is not there, holds no rows or cannot be read on.
    """
    path = path_of(spec)
    if path.exists():
        yield from _local_rows(path)
    elif _looks_local(spec):
        raise DataError(f"{spec}: no such file{_neighbours(path)}")
    else:
        yield from _hub_rows(spec)


def mapped(raw: RawRow, mapping: ColumnMap) -> dict[str, Any]:
    """A row's values under our names. A malformed row has none."""
    assert isinstance(raw.cells, dict), raw.cells
    cells = mapping.apply(structured(raw.cells))
    return parse_cells(cells) if raw.csv else cells


def _local_rows(path: Path) -> Iterator[RawRow]:
    for file in data_files(path):
        name, is_csv, empty = str(file), format_of(file.name) == "csv", True
        for number, row in attempt_file(file):
            empty = False
            yield RawRow(Origin(name, number), row, is_csv)
        if empty:
            raise DataError(f"{name}: the file holds no rows")


def data_files(path: Path) -> list[Path]:
    """A file itself, or the data files in a folder. Raises DataError where there is none."""
    if not path.is_dir():
        if format_of(path.name) is None:
            raise DataError(f"{path}: unknown kind of file; redpencil reads {FORMATS}")
        return [path]
    inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    files = [p for p in inside if p.is_file() and format_of(p.name)]
    if not files:
        folders = [p.name for p in inside if p.is_dir()]
        hint = f" (it has the folders {', '.join(folders)})" if folders else ""
        raise DataError(f"{path}: no data files directly in this folder{hint}; wanted: {FORMATS}")
    return files


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
