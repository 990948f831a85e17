"""`--fix`: the cleaned rows in a new file, and beside it a log of every change and removal.

Only what a careful person would change is changed. Rows that are malformed or that training would
set aside for a defect of their own go; of exact duplicates the first stays; of two rows that
contradict each other neither; answers lose the template strings at their ends. The rest is written
as it was read. What is left is looked at once more, until nothing is found: a second `--fix` finds
nothing to do. The data are read twice more in each round, and no row is held.
"""

import datetime
import decimal
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Self

from redpencil.data.columns import ColumnMap
from redpencil.data.reading import ReadRow, Source
from redpencil.data.sources import RawRow, attempt_rows
from redpencil.doctor.reasons import DEFECTS
from redpencil.doctor.repair import Change, Repairer
from redpencil.doctor.rows.keys import Places
from redpencil.doctor.rows.repeats import BOTH_WAYS, DUPLICATE, Repeats
from redpencil.doctor.tally import both
from redpencil.errors import DataError
from redpencil.places import LONGEST, naming, whole_file

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
    with ExitStack() as stack:
        log = stack.enter_context(_Written(log_of(out)))
        with naming(out):
            scratch = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=f".{out.stem[:LONGEST]}.", dir=out.parent)
            )
        written = Path(scratch) / "1.jsonl"
        rounds = [_Round(source, out).write(written, log, mend)]
        # What a file is read as is told from all its rows, and a row is compared with all others:
        # where some went or became others, the rest is looked at anew, as whoever reads it will.
        while rounds[-1].touched and len(rounds[-1].kept):
            columns = {} if source.only.layout.foreign else source.columns
            again = Source(str(written), source.purpose, columns)
            written = written.with_name(f"{len(rounds) + 1}.jsonl")
            rounds.append(_Round(again, out, rounds[-1].kept).write(written, log))
        with naming(out):
            os.replace(written, out)
    removed = sum((r.removed for r in rounds), Counter[str]())
    kept = rounds[-1].kept
    changed = set[int]().union(*(r.changed for r in rounds))
    total = len(kept) + removed.total()
    assert total == source.rows_read, f"{total} of {source.rows_read} rows accounted for"
    return Fixed(
        out=out,
        log=log_of(out),
        rows_read=total,
        kept=len(kept),
        changed=sum(kept.place(i) in changed for i in range(len(kept))),
        removed=dict(removed.most_common()),
        mended=rounds[0].mended,
    )


class _Round:
    """One reading with its repairs. kept: where the rows that are written stand in the user's
    files; changed: the places of rows that lost an end; mended: doubted labels that were changed.

    before: of rows that an earlier round has written, where they stand; None for the user's own.
    """

    def __init__(self, source: Source, out: Path, before: Places | None = None) -> None:
        self.source = source
        self.out = out
        self.before = before
        self.kept = Places()
        self.removed = Counter[str]()
        self.changed: set[int] = set()
        self.mended = 0

    @property
    def touched(self) -> bool:
        return bool(self.removed or self.changed or self.mended)

    def write(self, path: Path, log: "_Written", mend: Mend | None = None) -> Self:
        """Write the rows that stay, and every change and removal into the log."""
        marks = self._marks()
        malformed, first = 0, ""
        with _Written(path) as rows:
            for read, changes in self._repaired():
                reason, detail = _why_removed(read, marks)
                if read.problem and read.problem.malformed:
                    malformed, first = malformed + 1, first or detail
                where = {"file": read.origin.file, "row": read.origin.row}
                if reason:
                    self.removed[reason] += 1
                    log.add({**where, "action": "removed", "reason": reason, "detail": detail})
                    continue
                cells, mends = mend(read) if mend else (read.raw.cells, [])
                for entry in mends:
                    log.add(entry)
                if cells is None:
                    self.removed[SUSPECT] += 1
                    continue
                self.mended += len(mends)
                rows.add(_jsonable(replace(read.raw, cells=cells)))
                self.kept.add(read)
                if changes:
                    self.changed.add(read.place)
                what = {**where, "action": "changed", "reason": "template-text"}
                for change in changes:
                    log.add({**what, **asdict(change)})
        if malformed == self.source.rows_read:
            raise DataError(
                f"--fix {self.out}: every row is malformed, so it is not the rows but how they are "
                f"read (--columns); the first: {first}"
            )
        return self

    def _repaired(self) -> Iterator[tuple[ReadRow, tuple[Change, ...]]]:
        """The repaired rows, under the names and places that they have in the user's files."""
        source, before = self.source, self.before
        shape, mapping = source.only.shape, ColumnMap(source.columns)
        repairer, of_ours = Repairer(shape, source.columns), Repairer(shape, {})
        source.begin()
        for place, raw in enumerate(attempt_rows(source.files)):
            if before is not None:
                raw = replace(raw, origin=before.origin(place))
                place = before.place(place)
            written = source.ours(raw)
            repaired, changes = (of_ours if written.ours else repairer).repair(written)
            yield source.read(place, repaired, mapping), changes

    def _marks(self) -> dict[int, tuple[str, str]]:
        """The places of rows that others repeat or contradict, once repaired, with the reason."""
        repeats = Repeats(listed=self.source.only.layout.by == "comparisons")
        for read, _ in self._repaired():
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
