"""Rows become records: the shape is recognised, bad rows are refused here and nowhere later.

A malformed row stops with DataError; a well-formed but unusable one is set aside with its reason.
Every row read is either among the `origins` of a record or among `dropped`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from redpencil.data.contents import Row, SetAside
from redpencil.data.judgements import strength_of
from redpencil.data.labelled import join_labels, label_of
from redpencil.data.rows import Reader, best_only, looks_like_transcripts
from redpencil.data.shapes import JUDGEMENTS, Purpose, check_for_prompt, recognise, unused
from redpencil.data.sources import read_rows
from redpencil.errors import DataError
from redpencil.types import Dropped, Origin, Record


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
    return _build(read_rows(spec, columns=columns), purpose, spec)


def records_from_rows(rows: Iterable[Mapping[str, Any]], purpose: Purpose) -> RecordSet:
    """The same for rows in memory, which are named "rows, row 1" and so on."""
    return _build(_numbered(rows), purpose, "rows")


def _numbered(rows: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Origin, Mapping[str, Any]]]:
    for number, row in enumerate(rows, start=1):
        origin = Origin("rows", number)
        if not isinstance(row, Mapping) or not all(isinstance(k, str) for k in row):
            raise DataError(f"{origin}: a row must be a mapping from column names to values")
        yield origin, row


def _build(
    source: Iterable[tuple[Origin, Mapping[str, Any]]], purpose: Purpose, name: str
) -> RecordSet:
    rows: list[Row] = []
    seen: dict[frozenset[str], Origin] = {}
    for origin, cells in source:
        rows.append(Row(origin, cells))
        seen.setdefault(frozenset(k for k, v in cells.items() if v is not None), origin)
    shape = recognise(seen, purpose, name)
    union = frozenset[str]().union(*seen)
    by = next((j for j in JUDGEMENTS if j in union), "")
    reader = Reader(shape, by)
    if shape.kind == "implicit":
        reader.transcripts = looks_like_transcripts(
            [(r.get("chosen"), r.get("rejected")) for r in rows]
        )
        if not reader.transcripts and any(isinstance(r.get("chosen"), str) for r in rows):
            check_for_prompt(union, rows[0].origin)
    made = _Made(reader, purpose)
    if shape.kind == "labelled" and purpose == "preference":
        made.join(rows)
    else:
        for row in rows:
            made.add(row)
    notes = [note.format(n=f"{count:,}") for note, count in reader.notes.items()]
    if extra := unused(shape, union, purpose):
        notes.append(f"columns not used: {', '.join(extra)}")
    return RecordSet(
        records=made.records,
        dropped=made.dropped,
        shape=_sentence(reader, union, purpose),
        rows_read=len(rows),
        notes=notes,
        origins=made.origins,
    )


class _Made:
    """Gathers what becomes of the rows."""

    def __init__(self, reader: Reader, purpose: Purpose) -> None:
        self.reader = reader
        self.purpose = purpose
        self.records: list[Record] = []
        self.dropped: list[Dropped] = []
        self.origins: list[tuple[Origin, ...]] = []

    def add(self, row: Row) -> None:
        """One row, one record."""
        try:
            record = self.reader.read(row)
            if self.purpose == "sft":
                record = self._for_sft(row, record)
        except SetAside as aside:
            self.dropped.append(Dropped(row.origin, aside.reason, aside.detail))
            return
        self.records.append(_with_origin(record))
        self.origins.append((row.origin,))

    def join(self, rows: Iterable[Row]) -> None:
        """Rows with the same prompt and labels, one record."""
        labelled = []
        for row in rows:
            label, strength = label_of(row), strength_of(row)
            try:
                labelled.append((self.reader.read(row), label, strength))
            except SetAside as aside:
                self.dropped.append(Dropped(row.origin, aside.reason, aside.detail))
        for record, origins in join_labels(labelled, self.dropped, self.reader.notes):
            self.records.append(record)
            self.origins.append(origins)
        # Joined in any order; told in the order of the files.
        self.dropped.sort(key=lambda d: (d.origin.file, d.origin.row))

    def _for_sft(self, row: Row, record: Record) -> Record:
        weight = strength_of(row).weight
        if record.comparisons:
            return best_only(record, weight)
        if self.reader.shape.kind == "labelled" and not label_of(row):
            raise SetAside("label is false")
        return replace(record, weights=(weight,))


def _with_origin(record: Record) -> Record:
    """Comparisons keep their row: rows that share a prompt will join one tree."""
    named = (replace(c, origin=record.origin) for c in record.comparisons)
    return replace(record, comparisons=tuple(named))


def _sentence(reader: Reader, union: frozenset[str], purpose: Purpose) -> str:
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
