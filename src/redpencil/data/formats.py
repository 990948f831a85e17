"""One reader for each file format: a file becomes numbered rows, or one clear DataError.

Every reader yields (row number, dict), or (row number, DataError) for a row that is malformed while
the ones after it can still be read. A row is numbered from 1: the line in JSONL, the data row
(without the header) in CSV, the place in the list in JSON and in the table in Parquet.
"""

import csv
import gzip
import io
import json
import re
import shlex
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from redpencil.errors import DataError

Attempts = Iterator[tuple[int, dict[str, Any] | DataError]]
DEEPEST = 200
"""Levels of nesting in a row; what is deeper than that is no data, and exhausts the stack."""
INDEX = "unnamed index"
"""What the column is called in which pandas writes the rows' labels."""
BOM = b"\xef\xbb\xbf"
_ESCAPED = re.compile("[\udc80-\udcff]")
"""What is left of a byte that is no UTF-8."""


def format_of(name: str) -> str | None:
    """The format that a file's name says ("jsonl", "json", "csv", "parquet"), .gz or not."""
    suffix = Path(name.lower().removesuffix(".gz")).suffix.removeprefix(".")
    return suffix if suffix in READERS else None


def attempt_file(path: Path, remarks: Counter[str] | None = None) -> Attempts:
    """Rows of one data file, malformed ones as DataError in their place. Raises DataError for what
    spoils the rest of the file, too. remarks: takes what was read otherwise than it stands."""
    remarks = Counter() if remarks is None else remarks
    kind = format_of(path.name)
    assert kind is not None, path
    try:
        with _opened(path) as stream:
            yield from READERS[kind](path, stream, remarks)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        if not _is_gzip(path):
            raise DataError(
                f"{path}: is not gzipped, though its name ends in .gz; rename it to {path.stem}"
            ) from error
        raise DataError(f"{path}: truncated or damaged gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _read_jsonl(path: Path, stream: IO[bytes], remarks: Counter[str]) -> Attempts:
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            where = f"{path}, row {number}"
            line = line.rstrip(b"\r\n")  # an error at the end of a row is none of the next line
            try:
                row: dict[str, Any] | DataError = _object(where, _parsed(where, _text(where, line)))
            except DataError as error:
                row = error
            yield number, row


def _read_json(path: Path, stream: IO[bytes], remarks: Counter[str]) -> Attempts:
    raw = stream.read().removeprefix(BOM)
    first, _, rest = raw.lstrip().partition(b"\n")
    if first.startswith(b"{") and first.rstrip().endswith(b"}") and rest.strip():
        # One object a line under the name .json, as many data sets have it.
        yield from _read_jsonl(path, io.BytesIO(raw), remarks)
        return
    if not raw.strip():
        return
    parsed = _parsed(str(path), _text(str(path), raw))
    if isinstance(parsed, dict) and (found := _as_table(parsed)):
        form, parsed = found
        remarks[f"{path}: {form}; each of its {len(parsed):,} rows is read"] += 0
    if not isinstance(parsed, list):
        parsed = [parsed]
    for number, value in enumerate(parsed, start=1):
        try:
            row: dict[str, Any] | DataError = _object(f"{path}, row {number}", value)
        except DataError as error:
            row = error
        yield number, row


def _as_table(value: dict[str, Any]) -> tuple[str, list[Any]] | None:
    """What the object is, and its rows, where it is a whole table as pandas and others write it;
    None for a single row."""
    columns, data = value.get("columns"), value.get("data")
    split = set(value) == {"columns", "index", "data"} and isinstance(columns, list)
    if split and isinstance(data, list) and all(_as_long(row, columns) for row in data):
        return _PANDAS.format("split"), [_row(columns, row) for row in data]
    if set(value) == {"schema", "data"} and isinstance(data, list):
        return _PANDAS.format("table"), data
    inner = list(value.values())
    if not inner:
        return None
    if all(isinstance(v, dict) and v for v in inner):
        labels = list(inner[0])
        if all(list(v) == labels for v in inner):
            if all(label.isdecimal() for label in value):
                return _PANDAS.format("index"), inner
            if all(label.isdecimal() for label in labels):
                rows = [{name: column[at] for name, column in value.items()} for at in labels]
                return _PANDAS.format("columns"), rows
    if all(_as_long(v, inner[0]) for v in inner) and any(map(_texts_of_rows, value, inner)):
        rows = [_row(value, row) for row in zip(*inner, strict=True)]
        return "an object with a list for each column", rows
    return None


def _row(names: Any, cells: Any) -> dict[str, Any]:
    return dict(zip(names, cells, strict=True))


_PANDAS = "a table as pandas writes it with orient={!r}"


def _as_long(value: Any, other: Any) -> bool:
    return isinstance(value, list) and isinstance(other, list) and len(value) == len(other) > 0


def _texts_of_rows(name: str, values: list[Any]) -> bool:
    """Whether a list holds a text for each of several rows: no single row has texts there."""
    return name in _SINGLE and all(isinstance(v, str | None) for v in values) and any(values)


_SINGLE = frozenset(
    [
        *("prompt", "chosen", "rejected", "completion", "instruction", "question", "query"),
        *("input", "response", "answer", "system"),
    ]
)
"""Columns of which a row holds one text, never a list of them."""


def _text(where: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n")
        place = f", line {line + 1}" if line else ""
        raise DataError(
            f"{where}{place}: not valid UTF-8 (byte 0x{raw[error.start]:02x} at {error.start}); "
            "save the file as UTF-8"
        ) from error


def _parsed(where: str, text: str) -> Any:
    try:
        value = json.loads(text)
        if text.count("[") + text.count("{") > DEEPEST and depth_of(value) > DEEPEST:
            raise DataError(f"{where}: JSON nested too deeply")
        return value
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        seen = text[max(0, error.pos - 10) : error.pos + 20]
        raise DataError(
            f"{where}: not valid JSON: {error.msg} ({line}column {error.colno}, at {seen!r})"
        ) from error
    except RecursionError as error:
        raise DataError(f"{where}: JSON nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error


def depth_of(value: Any) -> int:
    """Levels of lists and objects in a value, at most one more than `DEEPEST`."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
        depth += 1
    return depth


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f'{where}: a row must be an object like {{"prompt": ..., "chosen": ..., '
            f'"rejected": ...}}, found {type(value).__name__} {str(value)[:40]!r}'
        )
    return value


def _read_csv(path: Path, stream: IO[bytes], remarks: Counter[str]) -> Attempts:
    csv.field_size_limit(sys.maxsize)
    # Bytes that are no UTF-8 become half surrogates, so that they cost their own row only.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise DataError(f"{path}: malformed CSV header: {error}") from error
    if header is None:
        return
    if header[:1] == [""] and header.count("") == 1 and len(header) > 1:
        header[0] = INDEX  # as `DataFrame.to_csv` writes it
        remarks[f'{path}: the first column has no name; it is called "{INDEX}"'] += 0
    _check_header(path, header)
    number = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            number += 1
            line = reader.line_num
            yield number, DataError(f"{path}, row {number} (line {line}): malformed CSV: {error}")
            continue
        if cells is None:
            return
        if cells:
            number += 1
            yield number, _named(header, cells, f"{path}, row {number}", reader.line_num)


def _named(
    header: list[str], cells: list[str], where: str, line: int
) -> dict[str, Any] | DataError:
    """The cells under their names, or what is wrong with them."""
    if len(cells) != len(header):
        return DataError(
            f"{where} (line {line}): {len(cells)} cells, but the header has {len(header)} columns; "
            "put quotes around text with commas"
        )
    if any(_ESCAPED.search(cell) for cell in cells):
        return DataError(f"{where}: not valid UTF-8; save the file as UTF-8")
    return dict(zip(header, cells, strict=True))


def _check_header(path: Path, header: list[str]) -> None:
    if any(_ESCAPED.search(name) for name in header):
        raise DataError(f"{path}: the header is not valid UTF-8; save the file as UTF-8")
    separator = next((s for s in (";", "\t") if len(header) == 1 and s in header[0]), None)
    if separator is not None:
        raise DataError(
            f"{path}: the columns are separated by {separator!r}, and a CSV file here has commas; "
            f"write it anew: {_with_commas(path, separator)}"
        )
    if "" in header:
        place = header.index("") + 1
        raise DataError(f"{path}: column {place} of the CSV header has no name")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f'{path}: the CSV header has column "{twice[0]}" twice')


def _with_commas(path: Path, separator: str) -> str:
    """A line for the shell that writes a CSV file anew, beside it."""
    code = "import csv, sys; csv.field_size_limit(sys.maxsize); "
    code += "csv.writer(sys.stdout).writerows("
    code += f"csv.reader(sys.stdin, delimiter={separator!r}))"
    source = shlex.quote(str(path))
    packed = path.name.lower().endswith(".gz")
    name = path.stem if packed else path.name
    out = shlex.quote(str(path.with_name(f"commas-{name}")))
    return (
        f'gzip -dc {source} | python3 -c "{code}" > {out}'
        if packed
        else f'python3 -c "{code}" < {source} > {out}'
    )


def _read_parquet(path: Path, stream: IO[bytes], remarks: Counter[str]) -> Attempts:
    import pyarrow
    from pyarrow import parquet

    # Parquet is read from its end: what is gzipped around it must be unpacked first.
    source = io.BytesIO(stream.read()) if path.name.lower().endswith(".gz") else stream
    try:
        yield from _of_batches(path, parquet.ParquetFile(source).iter_batches(4096), remarks)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def _read_arrow(path: Path, stream: IO[bytes], remarks: Counter[str]) -> Attempts:
    """A stream of batches, as `datasets` writes it, or a file of them."""
    import pyarrow
    from pyarrow import ipc

    source = io.BytesIO(stream.read()) if path.name.lower().endswith(".gz") else stream
    try:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            opened = ipc.open_file(source)
            batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
            yield from _of_batches(path, batches, remarks)
        else:
            yield from _of_batches(path, ipc.open_stream(source), remarks)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Arrow file ({error})") from error


def _of_batches(path: Path, batches: Iterable[Any], remarks: Counter[str]) -> Attempts:
    number = 0
    for batch in batches:
        names = batch.schema.names
        columns = [
            _cells(name, column, remarks) for name, column in zip(names, batch.columns, strict=True)
        ]
        for at in range(batch.num_rows):
            number += 1
            cells = {name: column[at] for name, column in zip(names, columns, strict=True)}
            bad = next((c for c in cells.values() if isinstance(c, DataError)), None)
            yield number, cells if bad is None else DataError(f"{path}, row {number}, {bad}")


def _cells(name: str, column: Any, remarks: Counter[str]) -> list[Any]:
    """A column's values as Python has them. What Python cannot hold (a time or a duration out of
    its range) is the number that the file has; what is no such number is a DataError."""
    try:
        values: list[Any] = column.to_pylist()
        return values
    except Exception:  # which kinds they are depends on the type and on what else is installed
        pass
    found: list[Any] = []
    for scalar in column:
        try:
            found.append(scalar.as_py())
        except Exception as error:
            number = getattr(scalar, "value", None)
            if isinstance(number, int):
                remarks[f'values of column "{name}" that are out of range are read as numbers'] += 1
                found.append(number)
            else:
                found.append(DataError(f'column "{name}": {error}'))
    return found


READERS: dict[str, Callable[[Path, IO[bytes], Counter[str]], Attempts]] = {
    "jsonl": _read_jsonl,
    "ndjson": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}
