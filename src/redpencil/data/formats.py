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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from redpencil.errors import DataError

Attempts = Iterator[tuple[int, dict[str, Any] | DataError]]
DEEPEST = 200
"""Levels of nesting in a row; what is deeper than that is no data, and exhausts the stack."""
BOM = b"\xef\xbb\xbf"
_ESCAPED = re.compile("[\udc80-\udcff]")
"""What is left of a byte that is no UTF-8."""


def format_of(name: str) -> str | None:
    """The format that a file's name says ("jsonl", "json", "csv", "parquet"), .gz or not."""
    suffix = Path(name.lower().removesuffix(".gz")).suffix.removeprefix(".")
    return suffix if suffix in READERS else None


def attempt_file(path: Path) -> Attempts:
    """Rows of one data file, malformed ones as DataError in their place. Raises DataError for what
    spoils the rest of the file, too."""
    kind = format_of(path.name)
    assert kind is not None, path
    try:
        with _opened(path) as stream:
            yield from READERS[kind](path, stream)
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


def _read_jsonl(path: Path, stream: IO[bytes]) -> Attempts:
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


def _read_json(path: Path, stream: IO[bytes]) -> Attempts:
    raw = stream.read().removeprefix(BOM)
    first, _, rest = raw.lstrip().partition(b"\n")
    if first.startswith(b"{") and first.rstrip().endswith(b"}") and rest.strip():
        # One object a line under the name .json, as many data sets have it.
        yield from _read_jsonl(path, io.BytesIO(raw))
        return
    if not raw.strip():
        return
    parsed = _parsed(str(path), _text(str(path), raw))
    if not isinstance(parsed, list):
        parsed = [parsed]
    for number, value in enumerate(parsed, start=1):
        try:
            row: dict[str, Any] | DataError = _object(f"{path}, row {number}", value)
        except DataError as error:
            row = error
        yield number, row


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


def _read_csv(path: Path, stream: IO[bytes]) -> Attempts:
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


def _read_parquet(path: Path, stream: IO[bytes]) -> Attempts:
    import pyarrow
    from pyarrow import parquet

    # Parquet is read from its end: what is gzipped around it must be unpacked first.
    source = io.BytesIO(stream.read()) if path.name.lower().endswith(".gz") else stream
    try:
        number = 0
        for batch in parquet.ParquetFile(source).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


READERS: dict[str, Callable[[Path, IO[bytes]], Attempts]] = {
    "jsonl": _read_jsonl,
    "ndjson": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
