"""Rows one after another, good ones and bad ones, without holding them.

A data set is read twice. The first reading learns which columns there are, and so the shape, as
data/records.py does; the second makes of each row a record, or says why there is none. A malformed
row stops a training run; here it is a row like others, with its reason.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from redpencil.data.columns import FIELDS, ColumnMap
from redpencil.data.contents import Row, SetAside
from redpencil.data.guess import check_for_prompt, not_preferences
from redpencil.data.judgements import strength_of
from redpencil.data.labelled import label_of
from redpencil.data.records import read_record, recognise, shape_sentence, trial_of
from redpencil.data.rows import Reader
from redpencil.data.shapes import (
    JUDGEMENTS,
    Purpose,
    Shape,
    deviant,
    shape_of,
    unused,
)
from redpencil.data.sources import RawRow, attempt_rows, mapped
from redpencil.data.structures import WrittenCount
from redpencil.data.transcripts import TranscriptVote
from redpencil.errors import DataError
from redpencil.types import Content, Origin, Record

UNREADABLE = "unreadable-row"
MISSING = "missing-field"
MISTYPED = "mistyped-field"
MIXED = "mixed-shapes"
NOT_UNICODE = "not valid Unicode"
_MOST_SETS = 4096
"""Different sets of columns that are told apart; a file with more has names made of data."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row is no record.

    malformed: training stops at such a row, else it sets it aside. key: UNREADABLE and so on, or
    the reason of the row that is set aside; detail: what was seen.
    """

    malformed: bool
    key: str
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class ReadRow:
    """One row as it was read: a record, or a problem.

    place: counts all rows from 0. row: its values under our names, None if it has none. label: of
    rows that are joined by prompt, whose record has this row's response only.
    """

    place: int
    raw: RawRow
    row: Row | None
    record: Record | None
    label: bool | None
    problem: Problem | None

    @property
    def origin(self) -> Origin:
        return self.raw.origin


class Source:
    """A file, a folder or a Hub data set whose rows can be read again and again.

    purpose None: preferences, if the shape serves them, else SFT. Of the rows nothing is held; a
    .json file, and a gzipped Parquet file, is in memory as a whole while it is read.

    Raises DataError where no row can be read or no shape is recognised.
    """

    def __init__(
        self, spec: str, purpose: Purpose | None = None, columns: Mapping[str, str] | None = None
    ) -> None:
        self.spec = spec
        self.columns = dict(columns or {})
        self.rows_read = 0
        seen = self._scan()
        shape = _shape_of_all(seen) or _shape_of_most(seen)
        if shape is None:
            raise self._unrecognised(seen, purpose)
        self.shape, self.by, self._uniform = shape
        self.union = frozenset[str]().union(*seen) - set(JUDGEMENTS) | {self.by} - {""}
        alike = (p for p in seen if self._uniform or shape_of(p) in (None, self.shape))
        self._own = self.union & frozenset[str]().union(*alike)
        default: Purpose = "preference" if "preference" in self.shape.taken else "sft"
        self.purpose: Purpose = purpose or default
        first = next(first for present, (_, first) in seen.items() if self.shape.fits(present))
        if self.purpose not in self.shape.taken:
            raise not_preferences(self.shape, self.union, first, trial_of(spec, columns))
        implicit = self.shape.kind == "implicit"
        self.transcripts = implicit and self._vote.won
        if implicit and not self.transcripts and self._some_text:
            check_for_prompt(self.union, first, trial_of(spec, columns))
        self.reader = self._new_reader()

    @property
    def joined(self) -> bool:
        """Whether rows are joined by prompt, by their labels."""
        return self.shape.kind == "labelled" and self.purpose == "preference"

    @property
    def sentence(self) -> str:
        """The shape in words; whether it holds text or messages is known after a reading."""
        return shape_sentence(self.reader, self.union, self.purpose)

    @property
    def unused_columns(self) -> list[str]:
        """Of the rows that are of this shape, or of none."""
        into = {path.partition(".")[0] for path in self.columns.values()}
        return [c for c in unused(self.shape, self._own, self.purpose) if c not in into]

    def rows(self) -> Iterator[ReadRow]:
        """Every row in the order of the files. `reader` then counts what was left out in rows."""
        self.reader = self._new_reader()
        mapping = ColumnMap(self.columns)
        for place, raw in enumerate(attempt_rows(self.spec)):
            yield self.read(place, raw, mapping, self.reader)

    def read(self, place: int, raw: RawRow, mapping: ColumnMap, reader: Reader) -> ReadRow:
        """One row on its own."""
        if isinstance(raw.cells, DataError):
            return _failed(place, raw, None, Problem(True, UNREADABLE, str(raw.cells)))
        row = Row(raw.origin, mapped(raw, mapping))
        if problem := self._deviation(row):
            return _failed(place, raw, row, problem)
        label = None
        try:
            if self.joined:
                label = label_of(row)
                strength_of(row)
            record = read_record(reader, row, self.purpose)
        except DataError as error:
            return _failed(place, raw, row, Problem(True, MISTYPED, str(error)))
        except SetAside as aside:
            return _failed(place, raw, row, Problem(False, aside.reason, aside.detail), label)
        if lost := _not_unicode(record):
            return _failed(place, raw, row, Problem(False, NOT_UNICODE, lost), label)
        return ReadRow(place, raw, row, record, label, None)

    def _unrecognised(
        self, seen: Mapping[frozenset[str], tuple[int, Origin]], purpose: Purpose | None
    ) -> DataError:
        """The message that training would stop with."""
        nearest = shape_of(frozenset[str]().union(*seen))
        wanted: Purpose = "sft" if nearest and "preference" not in nearest.taken else "preference"
        firsts = {s: first for s, (_, first) in seen.items()}
        try:
            recognise(
                firsts,
                purpose or wanted,
                self.spec,
                lambda: trial_of(self.spec, self.columns),
            )
        except DataError as error:
            return error
        raise AssertionError(f"{self.spec}: a shape that no row has was recognised")

    def _new_reader(self) -> Reader:
        return Reader(self.shape, self.by, transcripts=self.transcripts)

    def _scan(self) -> dict[frozenset[str], tuple[int, Origin]]:
        """Each set of columns with how often and where first it occurs."""
        mapping = ColumnMap(self.columns)
        seen: dict[frozenset[str], tuple[int, Origin]] = {}
        self._vote = TranscriptVote()
        self.written = WrittenCount()
        self._some_text = False
        first_error: DataError | None = None
        for raw in attempt_rows(self.spec):
            self.rows_read += 1
            if isinstance(raw.cells, DataError):
                first_error = first_error or raw.cells
                continue
            cells = mapped(raw, mapping)
            self.written.see(cells)
            self._vote.add(cells.get("chosen"), cells.get("rejected"))
            self._some_text = self._some_text or isinstance(cells.get("chosen"), str)
            present = frozenset(k for k, v in cells.items() if v is not None)
            if len(seen) >= _MOST_SETS and present not in seen:
                present &= _FIELDS
            count, first = seen.get(present, (0, raw.origin))
            seen[present] = count + 1, first
        if not seen:
            if first_error is None:
                raise DataError(f"{self.spec}: no rows")
            rest = f"; none of the {self.rows_read:,} rows can be read"
            raise DataError(f"{first_error}{rest if self.rows_read > 1 else ''}")
        mapping.check(self.spec)
        return seen

    def _deviation(self, row: Row) -> Problem | None:
        """A row that is not of the data set's shape."""
        present = frozenset(k for k, v in row.cells.items() if v is not None)
        own = None if self._uniform else shape_of(present)
        if own is not None and own != self.shape:
            this, most = " / ".join(own.needed(present)), " / ".join(self.shape.needed(self.union))
            return Problem(
                True,
                MIXED,
                f"{row.origin}: rows of different shapes: this one has {this}, most have {most}; "
                "give them in separate files",
            )
        missing = [c for c in self.shape.needed(self.union) if c not in present]
        if missing:
            error = deviant(self.shape, present, missing[0], row.origin, self.union)
            return Problem(True, MISSING, str(error))
        return None


_FIELDS = frozenset(FIELDS)
_Recognised = tuple[Shape, str, bool]


def _failed(
    place: int, raw: RawRow, row: Row | None, problem: Problem, label: bool | None = None
) -> ReadRow:
    return ReadRow(place, raw, row, None, label, problem)


def _judgement(present: frozenset[str]) -> str:
    return next((j for j in JUDGEMENTS if j in present), "")


def _shape_of_all(seen: Mapping[frozenset[str], tuple[int, Origin]]) -> _Recognised | None:
    """What training finds, if no row stands against it."""
    union = frozenset[str]().union(*seen)
    shape = shape_of(union)
    if shape is None or any(not present.issuperset(shape.needed(union)) for present in seen):
        return None
    return shape, _judgement(union), True


def _shape_of_most(seen: Mapping[frozenset[str], tuple[int, Origin]]) -> _Recognised | None:
    """The shape, and the judgement, that most rows have by themselves."""
    counts: dict[tuple[Shape, str], int] = {}
    for present, (count, _) in seen.items():
        own = shape_of(present)
        if own is not None:
            by = _judgement(present)
            counts[own, by] = counts.get((own, by), 0) + count
    if not counts:
        return None
    shape, by = max(counts, key=lambda found: counts[found])
    return shape, by, False


def _not_unicode(record: Record) -> str:
    """The first text with half of a surrogate pair, if there is one."""
    for content in (record.prompt, *record.responses):
        for text in texts_of(content):
            if not text.isascii():
                try:
                    text.encode("utf-8")
                except UnicodeEncodeError as error:
                    before = text[max(0, error.start - 20) : error.start]
                    return f"{text[error.start]!r} after {before!r}"
    return ""


def texts_of(content: Content) -> Iterator[str]:
    """The text of a content, turn by turn; none of token ids."""
    if isinstance(content, str):
        yield content
    elif not isinstance(content, np.ndarray):
        for turn in content:
            said = turn.get("content")
            parts = [said] if isinstance(said, str) else [p.get("text") for p in said or ()]
            yield from (part for part in parts if isinstance(part, str))
