"""Data written anew with the suspect labels mended."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redpencil.console import say
from redpencil.data.mend import Doubt, How, check_how, mend
from redpencil.data.reading import ReadRow, Source
from redpencil.doctor.fix import SUSPECT, check_out, log_of
from redpencil.errors import DataError
from redpencil.folders.run import RunFolder
from redpencil.types import Origin
from redpencil.use.suspects import Suspects


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """What was written. pairs: suspects that were mended; removed: rows that went with them."""

    out: Path
    log: Path
    how: How
    pairs: int
    rows: int
    removed: int

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "out": str(self.out), "log": str(self.log)}


class Mender:
    """Mends the rows that hold suspects. log: every change, for the file beside the rows."""

    def __init__(self, found: Suspects, how: str, source: Source) -> None:
        self.how = check_how(how)
        self.source = source
        self._part = source.only  # one file is written
        self.counts: Counter[str] = Counter()
        if source.joined:
            raise DataError(
                f"{source.spec} has a label for each response: a suspect pair does not say which "
                "of its two labels is wrong, so it cannot be mended; the list names the pairs"
            )
        if not found.mendable:
            reason = found.verdict.refusal or "no label is more likely wrong than right"
            raise DataError(f"there is nothing to mend in {source.spec}: {reason}")
        self._doubts: dict[Origin, list[Doubt]] = {}
        for i in found.verdict.suspects:
            record, comparison = found.pairs.records[i], found.pairs.comparisons[i]
            doubt = Doubt(comparison.chosen, comparison.rejected, float(found.verdict.right[i]))
            self._doubts.setdefault(record.origin, []).append(doubt)

    def mend(self, read: ReadRow) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """(the row as it is to be written, None if it goes; what to log)."""
        cells, columns = self._cells(read)
        doubts = self._doubts.get(read.origin, [])
        if not doubts or read.row is None:
            return cells, []
        mended = mend(cells, read.row, self._part.reader, doubts, self.how, columns)
        self.counts["pairs"] += len(doubts)
        self.counts["removed"] += mended is None
        action = "removed" if mended is None else "changed"
        where = {"file": read.origin.file, "row": read.origin.row}
        done = {"action": action, "reason": SUSPECT, "how": self.how}
        # A row goes once, however many of its comparisons are doubted.
        told = doubts[:1] if mended is None else doubts
        return mended, [{**where, **done, **asdict(d)} for d in told]

    def _cells(self, read: ReadRow) -> tuple[dict[str, Any], Mapping[str, str]]:
        """A row's cells and what they are called; those of a CSV file become values only under
        our names."""
        if isinstance(read.raw.cells, DataError):
            raise read.raw.cells
        foreign = self._part.layout.foreign is not None
        if (read.raw.csv or foreign) and read.row is not None:
            return dict(read.row.cells), {}
        return read.raw.cells, self.source.columns


def write_mended(
    found: Suspects, out: Path, how: str, *, columns: Mapping[str, str] | None = None
) -> Mended:
    """Write all rows of the data that `found` judged to `out`, its suspects mended, and the log
    beside it. Raises DataError where one of them exists or there is nothing to mend."""
    check_out(out)
    mender = Mender(found, how, Source(found.header["data"], "preference", columns))
    log: list[dict[str, Any]] = []
    rows: list[Mapping[str, Any]] = []
    for row, changes in _all(mender):
        log += changes
        if row is not None:
            rows.append(row)
    folder = RunFolder(out.parent)
    folder.write_rows(log_of(out).name, log)
    folder.write_rows(out.name, rows)
    return Mended(
        out=out,
        log=log_of(out),
        how=mender.how,
        pairs=mender.counts["pairs"],
        rows=len(rows),
        removed=mender.counts["removed"],
    )


def _all(mender: Mender) -> Iterator[tuple[Mapping[str, Any] | None, list[dict[str, Any]]]]:
    for read in mender.source.rows():
        row, changes = mender.mend(read)
        # Dates and other things that a Parquet file may hold and JSON lacks become text.
        yield None if row is None else json.loads(json.dumps(row, default=str)), changes


def print_mended(mended: Mended) -> None:
    """What was written, and how to go on."""
    done = {"drop": "dropped", "flip": "flipped", "soften": "softened"}[mended.how]
    gone = f", {mended.removed:,} rows left out" if mended.removed else ""
    say(f"{mended.out}: {mended.rows:,} rows, {mended.pairs:,} suspect pairs {done}{gone}")
    say(f"          every change is in {mended.log}")
