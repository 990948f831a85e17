"""`--fix`: the cleaned rows in a new file, and beside it a log of every change and removal.

Only what a careful person would change is changed. Rows that are malformed or that training would
set aside for a defect of their own go; of exact duplicates the first stays; of two rows that
contradict each other neither; answers lose the template strings at their ends. The rest is written
as it was read. The data are read twice more, and no row is held.
"""

import datetime
import decimal
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from redpencil.data.columns import ColumnMap
from redpencil.data.reading import ReadRow, Source
from redpencil.data.sources import RawRow, attempt_rows
from redpencil.doctor.reasons import DEFECTS
from redpencil.doctor.repair import Change, Repairer
from redpencil.doctor.rows.repeats import BOTH_WAYS, DUPLICATE, Repeats
from redpencil.doctor.tally import both
from redpencil.errors import DataError
from redpencil.places import whole_file

SUSPECT = "suspect-label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What was written. rows_read = kept + the sum of `removed`. removed: rows by reason.

    changed: kept rows of which a text lost its end. mended: doubted labels that were changed in
    rows that are kept.
    """

    out: Path
    log: Path
    rows_read: int
    kept: int
    changed: int
    removed: Mapping[str, int]
    mended: int = 0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "out": str(self.out), "log": str(self.log)}


Mend = Callable[[ReadRow], tuple[dict[str, Any] | None, list[dict[str, Any]]]]
"""What becomes of a row whose label is doubted: its cells, None if it goes, and what to log."""


def log_of(out: Path) -> Path:
    """`cleaned.log.jsonl` beside `cleaned.jsonl`."""
    return out.with_suffix(".log.jsonl")


def check_out(out: Path) -> None:
    """Raises DataError where `--fix` cannot write, or would write over something."""
    if out.suffix != ".jsonl":
        raise DataError(f"--fix {out}: what is written is JSONL; give a name that ends in .jsonl")
    if not out.parent.is_dir():
        raise DataError(f"--fix {out}: there is no folder {out.parent}")
    for path in (out, log_of(out)):
        if path.exists():
            raise DataError(
                f"--fix {out}: {path} exists; nothing is written over, give another name"
            )


def fix(source: Source, out: Path, mend: Mend | None = None) -> Fixed:
    """Write the cleaned rows of a source to `out` and the log beside it, both whole or not at all.

    mend: is shown every row that is kept, and may change it or take it out. Raises DataError if one
    of them exists, if every row is malformed, or if a kept row has values that JSON cannot hold.
    """
    check_out(out)
    marks = _marks(source)
    kept, changed, mended, removed = 0, 0, 0, Counter[str]()
    malformed, first = 0, ""
    with ExitStack() as stack:
        rows = stack.enter_context(_Written(out))
        log = stack.enter_context(_Written(log_of(out)))
        for read, changes in _repaired(source):
            reason, detail = _why_removed(read, marks)
            if read.problem and read.problem.malformed:
                malformed, first = malformed + 1, first or detail
            where = {"file": read.origin.file, "row": read.origin.row}
            if reason:
                removed[reason] += 1
                log.add({**where, "action": "removed", "reason": reason, "detail": detail})
                continue
            cells, mends = mend(read) if mend else (read.raw.cells, [])
            for entry in mends:
                log.add(entry)
            if cells is None:
                removed[SUSPECT] += 1
                continue
            mended += len(mends)
            rows.add(_jsonable(replace(read.raw, cells=cells)))
            kept += 1
            changed += bool(changes)
            for change in changes:
                log.add({**where, "action": "changed", "reason": "template-text", **asdict(change)})
        if malformed == source.rows_read:
            raise DataError(
                f"--fix {out}: every row is malformed, so it is not the rows but how they are read "
                f"(--columns); the first: {first}"
            )
    total = kept + removed.total()
    assert total == source.rows_read, f"{total} of {source.rows_read} rows accounted for"
    return Fixed(
        out=out,
        log=log_of(out),
        rows_read=total,
        kept=kept,
        changed=changed,
        removed=dict(removed.most_common()),
        mended=mended,
    )


def _repaired(source: Source) -> Iterator[tuple[ReadRow, tuple[Change, ...]]]:
    shape, mapping = source.only.shape, ColumnMap(source.columns)
    repairer, of_ours = Repairer(shape, source.columns), Repairer(shape, {})
    source.begin()
    for place, raw in enumerate(attempt_rows(source.files)):
        written = source.ours(raw)
        repaired, changes = (of_ours if written.ours else repairer).repair(written)
        yield source.read(place, repaired, mapping), changes


def _marks(source: Source) -> dict[int, tuple[str, str]]:
    """The places of rows that others repeat or contradict, once repaired, each with its reason."""
    repeats = Repeats(listed=source.only.layout.by == "comparisons")
    for read, _ in _repaired(source):
        repeats.see_row(read)
    found, places = repeats.repeated(), repeats.places
    marks: dict[int, tuple[str, str]] = {}
    for group in found.both_ways:
        for row, other in group.items():
            _, named = both(places.origin(row), places.origin(other))
            marks[places.place(row)] = BOTH_WAYS.key, f"says the opposite of {named}"
    for row, first in found.duplicates:
        _, named = both(places.origin(row), places.origin(first))
        marks[places.place(row)] = DUPLICATE.key, f"the same as {named}"
    return marks


def _why_removed(read: ReadRow, marks: Mapping[int, tuple[str, str]]) -> tuple[str, str]:
    """(reason, detail), or two empty texts for a row that stays."""
    problem = read.problem
    if problem is not None:
        gone = problem.malformed or problem.key in DEFECTS
        return (problem.key, problem.detail) if gone else ("", "")
    reason, detail = marks.get(read.place, ("", ""))
    # A ranking of many is not thrown away because of one of its comparisons.
    if reason == BOTH_WAYS.key and read.record and len(read.record.comparisons) > 1:
        return "", ""
    return reason, detail


class _Written:
    """A JSONL file that appears whole when its block ends well, and not at all when it does not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._whole = whole_file(path, "wb")

    def __enter__(self) -> "_Written":
        self._file: IO[bytes] = self._whole.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._whole.__exit__(*error)

    def add(self, row: Mapping[str, Any]) -> None:
        text = json.dumps(row, ensure_ascii=False)
        try:
            line = text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair in a column that nobody reads
            line = json.dumps(row).encode()
        self._file.write(line + b"\n")


def _jsonable(raw: RawRow) -> dict[str, Any]:
    """The cells as JSON has them: dates as ISO text, decimals as text."""

    def plain(value: Any, column: str) -> Any:
        if isinstance(value, dict):
            return {str(k): plain(v, column) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v, column) for v in value]
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        if isinstance(value, decimal.Decimal | datetime.timedelta):
            return str(value)
        if value is None or isinstance(value, str | int | float):
            return value
        raise DataError(
            f'{raw.origin}, column "{column}": JSONL cannot hold {type(value).__name__}; '
            "leave this column out of the data"
        )

    assert isinstance(raw.cells, dict), raw.cells
    return {str(name): plain(value, str(name)) for name, value in raw.cells.items()}
