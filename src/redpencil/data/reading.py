"""The reader: every row of a data set is a record, or has its reason why it is none.

A data set is one file or several, each with its own shape (files of one shape are read as one). It
is read twice. The first reading learns which columns there are and what they hold, and so the
shapes; the second makes of each row a record, or says why there is none. Training (`strict`) stops
at the first malformed row; the doctor reads on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from redpencil.data.columns import ColumnMap
from redpencil.data.contents import Row, SetAside
from redpencil.data.guess import Trial, check_for_prompt, not_preferences, unrecognised
from redpencil.data.judgements import strength_of
from redpencil.data.labelled import grade_of, label_of
from redpencil.data.parts import (
    MISTYPED,
    NOT_UNICODE,
    UNREADABLE,
    Layout,
    Part,
    Problem,
    Scan,
    judgement,
    layout_of,
    layout_of_all,
    layout_of_most,
    part_sentence,
    read_record,
)
from redpencil.data.shapes import (
    Purpose,
    Shape,
    shape_of,
)
from redpencil.data.sources import RawRow, Remarks, Spec, attempt_rows, mapped, named, plain, said
from redpencil.data.structures import WrittenCount
from redpencil.errors import DataError
from redpencil.types import Content, Origin, Record

RawRows = Callable[[Remarks], Iterable[RawRow]]
Try = Callable[[Sequence[RawRow], Mapping[str, str], Purpose], "list[str] | None"]


@dataclass(frozen=True, slots=True, eq=False)
class ReadRow:
    """One row as it was read: a record, or a problem.

    place: counts all rows from 0. row: its values under our names, None if it has none. label: of
    rows that are joined by prompt, whose record has this row's response only. part: how it was
    read, None for a row that stands for a record only.
    """

    place: int
    raw: RawRow
    row: Row | None
    record: Record | None
    label: float | None
    problem: Problem | None
    part: Part | None = None

    @property
    def origin(self) -> Origin:
        return self.raw.origin


class Source:
    """Files, folders or Hub data sets whose rows can be read again and again.

    purpose None: preferences, if the shape serves them, else SFT. strict: as training reads, which
    stops at a malformed row. keep: so many rows are held from the first reading for the next ones
    (if there are no more). rows: instead of the data that `spec` names. losing: tries names for
    the columns, see guess.py; without it nothing is tried.

    Raises DataError where no row can be read or no shape is recognised.
    """

    def __init__(
        self,
        spec: Spec,
        purpose: Purpose | None = None,
        columns: Mapping[str, str] | None = None,
        *,
        strict: bool = False,
        keep: int = 0,
        rows: RawRows | None = None,
        guessing: bool = True,
    ) -> None:
        self.files = spec
        self.spec = named(spec)
        self.columns = dict(columns or {})
        self.strict = strict
        self.rows_read = 0
        self.remarks: Remarks = Counter()
        self.written = WrittenCount()
        self._numbers: Remarks = Counter()
        self._raw: RawRows = rows or (lambda remarks: attempt_rows(spec, remarks))
        self._guessing = guessing
        scans = self._scan(keep)
        self._of_file = self._recognised(scans, purpose)
        self.parts = list(dict.fromkeys(self._of_file.values()))
        takes = any("preference" in part.shape.taken for part in self.parts)
        self.purpose: Purpose = purpose or ("preference" if takes else "sft")
        for part in self.parts:
            self._check(part)
        self._unused = {
            part: [c for c in part.unused(self.purpose) if c not in self._into]
            for part in self.parts
        }

    # What it is -----------------------------------------------------------------------------------

    @property
    def only(self) -> Part:
        """The one part. Raises DataError where files have several shapes."""
        if len(self.parts) > 1:
            shapes = " and ".join(" / ".join(p.shape.columns) for p in self.parts)
            raise DataError(
                f"{self.spec} holds files of different shapes ({shapes}), which cannot be written "
                "into one file; give them one by one"
            )
        return self.parts[0]

    @property
    def joined(self) -> bool:
        """Whether some rows are joined by prompt, by their labels."""
        return any(part.joined(self.purpose) for part in self.parts)

    @property
    def sentence(self) -> str:
        """The shape in words; whether it holds text or messages is known after a reading."""
        return "; and ".join(part_sentence(part, self.purpose) for part in self.parts)

    @property
    def unused_columns(self) -> list[str]:
        """Of the rows that are of their file's shape, or of none."""
        return sorted({name for part in self.parts for name in self._unused[part]})

    @property
    def unread_text(self) -> dict[str, int]:
        """Columns that are not read, with the rows in which they carry text; after a reading."""
        found: Counter[str] = Counter()
        for part in self.parts:
            found.update(part.unread)
        return dict(found.most_common())

    @property
    def notes(self) -> Counter[str]:
        """What was left out within rows, by the sentence that says so; after a reading."""
        found: Counter[str] = Counter()
        for part in self.parts:
            found.update(part.reader.notes)
        return found

    @property
    def read_otherwise(self) -> list[str]:
        """What was read otherwise than it stands."""
        return said(self.remarks + self._numbers) + [
            text for text, count in self.remarks.items() if not count
        ]

    # Reading --------------------------------------------------------------------------------------

    def rows(self) -> Iterator[ReadRow]:
        """Every row in the order of the files."""
        self.begin()
        mapping = ColumnMap(self.columns)
        for place, raw in enumerate(self._raw(Counter())):
            yield self.read(place, raw, mapping)

    def begin(self) -> None:
        """Forget what was counted."""
        self._numbers = Counter()
        for part in self.parts:
            part.begin()

    def part_of(self, file: str) -> Part:
        """How the rows of a file are read."""
        return self.parts[0] if len(self.parts) == 1 else self._of_file[file]

    def read(self, place: int, raw: RawRow, mapping: ColumnMap) -> ReadRow:
        """One row on its own."""
        if isinstance(raw.cells, DataError):
            unreadable = Problem(True, UNREADABLE, str(raw.cells))
            return ReadRow(place, raw, None, None, None, unreadable)
        part = self.part_of(raw.origin.file)
        theirs = Row(raw.origin, raw.cells if raw.ours else mapped(raw, mapping))
        row, label = theirs, None
        problem: Problem | None
        problem = None if raw.ours else part.deviation(theirs)
        if problem:
            return ReadRow(place, raw, row, None, None, problem, part)
        try:
            if not raw.ours:
                part.see_unread(theirs, self._unused[part])
                row = part.made(theirs, self._numbers)
            if part.joined(self.purpose):
                label = grade_of(row) if part.graded else float(label_of(row))
                strength_of(row)
            record = read_record(part, row, self.purpose)
        except DataError as error:
            return ReadRow(place, raw, row, None, None, Problem(True, MISTYPED, str(error)), part)
        except SetAside as aside:
            problem = Problem(False, aside.reason, aside.detail)
            return ReadRow(place, raw, row, None, label, problem, part)
        if not self.strict and (lost := _not_unicode(record)):
            problem = Problem(False, NOT_UNICODE, lost)
            return ReadRow(place, raw, row, None, label, problem, part)
        part.see_strength(record)
        return ReadRow(place, raw, row, record, label, None, part)

    def ours(self, raw: RawRow) -> RawRow:
        """A row as it would be written by us: one of a shape of others in ours, with its other
        columns; any other as it stands, and a malformed one too."""
        part = self.part_of(raw.origin.file)
        if isinstance(raw.cells, DataError) or part.layout.foreign is None:
            return raw
        theirs = Row(raw.origin, mapped(raw, ColumnMap(self.columns)))
        if part.deviation(theirs):
            return raw
        try:
            cells = dict(part.made(theirs, Counter()).cells)
        except (DataError, SetAside):
            return raw
        return RawRow(raw.origin, cells, ours=True)

    # Recognising ----------------------------------------------------------------------------------

    @property
    def _into(self) -> set[str]:
        """Columns of which a field is read."""
        return {path.partition(".")[0] for path in self.columns.values()}

    def _scan(self, keep: int) -> dict[str, Scan]:
        """What each file holds."""
        mapping = ColumnMap(self.columns)
        found: dict[str, Scan] = {}
        kept: list[RawRow] = []
        first_error: DataError | None = None
        for raw in self._raw(self.remarks):
            self.rows_read += 1
            if self.rows_read <= keep:
                kept.append(raw)
            scan = found.setdefault(raw.origin.file, Scan())
            if isinstance(raw.cells, DataError):
                if self.strict:
                    raise raw.cells
                first_error = first_error or raw.cells
                continue
            cells = mapped(raw, mapping)
            self.written.see(cells)
            scan.see(cells, raw.origin)
        if not any(scan.seen for scan in found.values()):
            if first_error is None:
                raise DataError(f"{self.spec}: no rows")
            rest = f"; none of the {self.rows_read:,} rows can be read"
            raise DataError(f"{first_error}{rest if self.rows_read > 1 else ''}")
        mapping.check(self.spec)
        if self.rows_read <= keep:
            self._raw = lambda remarks: kept
        return found

    def _recognised(self, scans: dict[str, Scan], purpose: Purpose | None) -> dict[str, Part]:
        """The part that each file belongs to."""
        whole = Scan.together([scan for scan in scans.values() if scan.seen])
        if layout := layout_of_all(whole):
            return dict.fromkeys(scans, Part(layout, whole, uniform=True))
        of_file = {name: self._layout(scan) for name, scan in scans.items()}
        known = [layout for layout in of_file.values() if layout is not None]
        if not known:
            raise self._unrecognised(whole, purpose)
        # A file of no shape is held against that of most files: its rows say what they lack.
        usual = Counter(layout.key for layout in known).most_common(1)[0][0]
        groups: dict[tuple[Shape, str, str], list[str]] = {}
        for name, layout in of_file.items():
            groups.setdefault(layout.key if layout else usual, []).append(name)
        parts: dict[str, Part] = {}
        for key, names in groups.items():
            layout = next(found for found in known if found.key == key)
            together = Scan.together([scans[name] for name in names if scans[name].seen])
            alone = layout_of_all(together)
            uniform = self.strict or (alone is not None and alone.key == key)
            part = Part(layout, together, uniform=uniform)
            parts |= dict.fromkeys(names, part)
        return parts

    def _layout(self, scan: Scan) -> Layout | None:
        """Of one file; None where it is of no shape."""
        if not scan.seen:
            return None
        if self.strict:
            return layout_of(scan.union, scan)
        return layout_of_all(scan) or layout_of_most(scan)

    def _check(self, part: Part) -> None:
        """Raises DataError for data of another purpose, for a row that training would stop at,
        and for what must be a prompt under another name."""
        if self.purpose not in part.shape.taken:
            if not self._guessing:
                raise DataError(f"{part.first}: no shape for this purpose")
            raise not_preferences(part.shape, part.union, part.first, self.trial())
        if self.strict:
            for present, (_, origin) in part.scan.seen.items():
                cells = dict.fromkeys(present, True)
                if problem := part.deviation(Row(origin, cells)):
                    raise DataError(problem.detail)
        implicit = part.shape.kind == "implicit" and not part.layout.foreign
        if implicit and not part.transcripts and part.scan.some_text:
            trial = self.trial() if self._guessing else None
            check_for_prompt(part.union, part.first, trial)

    def _unrecognised(self, whole: Scan, purpose: Purpose | None) -> DataError:
        """The message that training stops with."""
        first = next(iter(whole.seen.values()))[1]
        if not self._guessing:
            return DataError(f"{first}: no shape for this purpose")
        nearest = shape_of(whole.union)
        wanted: Purpose = "sft" if nearest and "preference" not in nearest.taken else "preference"
        if nearest is not None:  # of all rows together, but some stand against it
            part = Part(Layout(nearest, judgement(whole.union)), whole, uniform=True)
            for present, (_, origin) in whole.seen.items():
                if problem := part.deviation(Row(origin, dict.fromkeys(present, True))):
                    return DataError(problem.detail)
        return unrecognised(whole.union, purpose or wanted, first, self.trial())

    def trial(self) -> Trial:
        """The first rows, on which names can be tried."""
        return Trial.on(self._raw(Counter()), self.columns, losing)


def of_memory(rows: Iterable[Mapping[str, Any]]) -> RawRows:
    """Rows in memory, which are named "rows, row 1" and so on. Raises DataError where one is no
    mapping from names."""
    kept = list(rows)

    def read(remarks: Remarks) -> Iterator[RawRow]:
        for number, row in enumerate(kept, start=1):
            origin = Origin("rows", number)
            if not isinstance(row, Mapping) or not all(isinstance(k, str) for k in row):
                raise DataError(f"{origin}: a row must be a mapping from column names to values")
            yield RawRow(origin, plain(dict(row), remarks))

    return read


def losing(
    rows: Sequence[RawRow], columns: Mapping[str, str], purpose: Purpose
) -> list[str] | None:
    """None where rows under these names are no records, or one is malformed; else the columns
    whose text would not be read."""
    try:
        source = Source("rows", purpose, columns, strict=True, rows=lambda _: rows, guessing=False)
        read = list(source.rows())
    except DataError:
        return None
    if any(row.problem and row.problem.malformed for row in read):
        return None
    return list(source.unread_text) if any(row.record for row in read) else None


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
            spoken = turn.get("content")
            parts = [spoken] if isinstance(spoken, str) else [p.get("text") for p in spoken or ()]
            yield from (part for part in parts if isinstance(part, str))
