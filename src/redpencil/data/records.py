"""Rows become records: the shape is recognised, bad rows are refused here and nowhere later.

A malformed row stops with DataError; a well-formed but unusable one is set aside with its reason.
Every row read is either among the `origins` of a record or among `dropped`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from redpencil.data.columns import ColumnMap
from redpencil.data.contents import Row, SetAside
from redpencil.data.guess import Trial, check_for_prompt, not_preferences, unrecognised
from redpencil.data.judgements import strength_of
from redpencil.data.labelled import UNPAIRED, join_labels, label_of
from redpencil.data.rows import Reader, best_only
from redpencil.data.shapes import JUDGEMENTS, Purpose, Shape, check_shape, shape_of, unused
from redpencil.data.sources import RawRow, attempt_rows, mapped, read_rows
from redpencil.data.structures import WrittenCount, structured
from redpencil.data.transcripts import TranscriptVote
from redpencil.errors import DataError
from redpencil.types import Dropped, Origin, Record

KEPT_ROWS = 10_000
"""Rows that are kept from finding the shape to making records; of a larger source none are, and it
is read a second time."""

Rows = Iterable[tuple[Origin, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSet:
    """What was read. shape: a sentence for a person; notes: what was left out within rows.

    origins: for each record the rows it was made of (several where labels were joined).
    """

    records: list[Record]
    dropped: list[Dropped]
    shape: str
    rows_read: int
    notes: list[str] = field(default_factory=list)
    origins: list[tuple[Origin, ...]] = field(default_factory=list)


def load_records(
    spec: str, *, purpose: Purpose, columns: Mapping[str, str] | None = None
) -> RecordSet:
    """Read a file, folder or Hub data set (see `read_rows`) as records.

    purpose "preference": records with comparisons. "sft": records with one response each, or
    several equally good ones; of preferences the best, of labelled rows the true ones.

    Raises DataError naming file, row and column for malformed data.
    """
    return stream_records(spec, purpose=purpose, columns=columns).all()


def records_from_rows(rows: Iterable[Mapping[str, Any]], purpose: Purpose) -> RecordSet:
    """The same for rows in memory, which are named "rows, row 1" and so on."""
    kept = list(rows)
    raw = (RawRow(Origin("rows", n), dict(row)) for n, row in enumerate(kept, start=1))
    return RecordStream(
        lambda: _numbered(kept), purpose, "rows", lambda: Trial.on(raw, None, readable)
    ).all()


def stream_records(
    spec: str, *, purpose: Purpose, columns: Mapping[str, str] | None = None
) -> "RecordStream":
    """The records of `load_records`, one after another."""
    return RecordStream(
        lambda: read_rows(spec, columns=columns), purpose, spec, lambda: trial_of(spec, columns)
    )


def trial_of(spec: str, columns: Mapping[str, str] | None) -> Trial:
    """The first rows of a source, on which names can be tried."""
    return Trial.on(attempt_rows(spec), columns, readable)


def readable(rows: Sequence[RawRow], columns: Mapping[str, str], purpose: Purpose) -> bool:
    """Whether rows under these names become records, none of them malformed."""
    mapping = ColumnMap(columns)
    try:
        named = [(raw.origin, mapped(raw, mapping)) for raw in rows]
        stream = RecordStream(lambda: named, purpose, "rows")
        made = list(stream)
    except DataError:
        return False
    # The counterparts of labels may come later than the first rows.
    return bool(made) or any(row.reason == UNPAIRED for row in stream.dropped)


def recognise(
    seen: Mapping[frozenset[str], Origin],
    purpose: Purpose,
    name: str,
    trial: Callable[[], Trial] | None,
) -> Shape:
    """The shape of a data set. seen: each set of columns that occurs, with its first row.

    Raises DataError for a missing column, with the `--columns` that would do as tried on `trial`
    (None: nothing is tried), for rows of different shapes, or for data of another purpose.
    """
    if not seen:
        raise DataError(f"{name}: no rows")
    union, first = frozenset[str]().union(*seen), next(iter(seen.values()))
    shape = shape_of(union)
    if shape is None or purpose not in shape.taken:
        if trial is None:
            raise DataError(f"{first}: no shape for this purpose")
        if shape is None:
            raise unrecognised(union, purpose, first, trial())
        raise not_preferences(shape, union, first, trial())
    check_shape(shape, seen)
    return shape


def _numbered(rows: Sequence[Mapping[str, Any]]) -> Rows:
    for number, row in enumerate(rows, start=1):
        origin = Origin("rows", number)
        if not isinstance(row, Mapping) or not all(isinstance(k, str) for k in row):
            raise DataError(f"{origin}: a row must be a mapping from column names to values")
        yield origin, structured(row)


class RecordStream:
    """Records one after another, in memory that does not grow with them.

    source: begins reading anew. The first reading, here, finds the shape of the rows; iterating
    makes the records. Rows with a label each are the exception: they are joined by prompt, so all
    of them are held. `dropped` and `notes` are complete once the records were iterated over.
    trial: begins a trial of other names for the columns, should these be no shape.
    """

    def __init__(
        self,
        source: Callable[[], Rows],
        purpose: Purpose,
        name: str,
        trial: Callable[[], Trial] | None = None,
    ) -> None:
        self.purpose = purpose
        seen: dict[frozenset[str], Origin] = {}
        kept: list[tuple[Origin, Mapping[str, Any]]] = []
        transcripts = TranscriptVote()
        first_text: Origin | None = None
        self.rows_read = 0
        self._written = WrittenCount()
        for origin, cells in source():
            self.rows_read += 1
            self._written.see(cells)
            seen.setdefault(frozenset(k for k, v in cells.items() if v is not None), origin)
            transcripts.add(cells.get("chosen"), cells.get("rejected"))
            if first_text is None and isinstance(cells.get("chosen"), str):
                first_text = origin
            if self.rows_read <= KEPT_ROWS:
                kept.append((origin, cells))
        self._source = source if self.rows_read > KEPT_ROWS else lambda: kept
        self._shape = recognise(seen, purpose, name, trial)
        self._union = frozenset[str]().union(*seen)
        implicit = self._shape.kind == "implicit"
        self._transcripts = implicit and transcripts.won
        if implicit and not self._transcripts and first_text is not None:
            check_for_prompt(self._union, kept[0][0], trial() if trial else None)
        self._begin()

    def _begin(self) -> None:
        by = next((j for j in JUDGEMENTS if j in self._union), "")
        self._reader = Reader(self._shape, by)
        self._reader.transcripts = self._transcripts
        self.dropped: list[Dropped] = []

    @property
    def shape(self) -> str:
        """A sentence for a person."""
        return shape_sentence(self._reader, self._union, self.purpose)

    @property
    def notes(self) -> list[str]:
        """What was left out within rows."""
        notes = self._written.notes
        notes += [note.format(n=f"{count:,}") for note, count in self._reader.notes.items()]
        if extra := unused(self._shape, self._union, self.purpose):
            notes.append(f"columns not used: {', '.join(extra)}")
        return notes

    def all(self) -> RecordSet:
        """Everything at once."""
        made = list(self)
        return RecordSet(
            records=[record for record, _ in made],
            dropped=self.dropped,
            shape=self.shape,
            rows_read=self.rows_read,
            notes=self.notes,
            origins=[origins for _, origins in made],
        )

    def __iter__(self) -> Iterator[tuple[Record, tuple[Origin, ...]]]:
        """Each record with the rows it was made of."""
        self._begin()
        rows = (Row(origin, cells) for origin, cells in self._source())
        if self._shape.kind == "labelled" and self.purpose == "preference":
            yield from self._joined(rows)
            return
        for row in rows:
            try:
                record = read_record(self._reader, row, self.purpose)
            except SetAside as aside:
                self.dropped.append(Dropped(row.origin, aside.reason, aside.detail))
                continue
            yield record, (row.origin,)

    def _joined(self, rows: Iterable[Row]) -> Iterator[tuple[Record, tuple[Origin, ...]]]:
        """Rows with the same prompt and labels, one record."""
        labelled = []
        for row in rows:
            label, strength = label_of(row), strength_of(row)
            try:
                labelled.append((self._reader.read(row), label, strength))
            except SetAside as aside:
                self.dropped.append(Dropped(row.origin, aside.reason, aside.detail))
        yield from join_labels(labelled, self.dropped, self._reader.notes)
        # Joined in any order; told in the order of the files.
        self.dropped.sort(key=lambda d: (d.origin.file, d.origin.row))


def read_record(reader: Reader, row: Row, purpose: Purpose) -> Record:
    """The record of one row. Raises DataError if it is malformed, SetAside if it is unusable."""
    record = reader.read(row)
    if purpose == "sft":
        return _for_sft(reader, row, record)
    # Comparisons keep their row: rows that share a prompt will join one tree.
    named = (replace(c, origin=record.origin) for c in record.comparisons)
    return replace(record, comparisons=tuple(named))


def _for_sft(reader: Reader, row: Row, record: Record) -> Record:
    weight = strength_of(row).weight
    if record.comparisons:
        return best_only(record, weight)
    if reader.shape.kind == "labelled" and not label_of(row):
        raise SetAside("label is false")
    return replace(record, weights=(weight,))


def shape_sentence(reader: Reader, union: frozenset[str], purpose: Purpose) -> str:
    """The shape in words: "prompt / chosen / rejected (strings)"."""
    shape = reader.shape
    said = " / ".join(shape.needed(union))
    if shape.columns[0].endswith("_ids"):
        kind = "token ids"
    elif reader.transcripts:
        kind = "Human / Assistant transcripts, the prompt being all before the last answer"
    elif shape.kind == "implicit" and "strings" in reader.forms:
        kind = "strings, the prompt being their shared beginning"
    elif shape.kind == "implicit":
        kind = "message lists, the prompt being the turns they share"
    elif "conversations" in shape.columns:
        kind = "ShareGPT"
    else:
        kind = " and ".join(sorted(reader.forms, reverse=True)) or "none usable"
    said = f"{said} ({kind})"
    if purpose == "preference" and shape.kind == "labelled":
        return f"{said}, joined by prompt: every true one beats every false one"
    if purpose == "sft" and shape.kind in ("pair", "implicit", "ranked"):
        return f"{said}, of which only the best responses are taken"
    if purpose == "sft" and shape.kind == "labelled":
        return f"{said}, of which only those with a true label are taken"
    return said
