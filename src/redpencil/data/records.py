"""Records of a data set: what the reader makes of its rows, as training takes them.

A malformed row stops with DataError; a well-formed but unusable one is set aside with its reason.
Every row read is either among the `origins` of a record or among `dropped`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from redpencil.data.judgements import strength_of
from redpencil.data.labelled import Graded, best_of_prompt, join_labels
from redpencil.data.reading import RawRow, Source, losing, of_memory
from redpencil.data.shapes import Purpose
from redpencil.data.sources import Spec
from redpencil.errors import DataError
from redpencil.types import Dropped, Origin, Record

KEPT_ROWS = 10_000
"""Rows that are kept from finding the shape to making records; of a larger source none are, and it
is read a second time."""


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
    spec: Spec, *, purpose: Purpose, columns: Mapping[str, str] | None = None
) -> RecordSet:
    """Read files, folders or Hub data sets (see `read_rows`) as records.

    purpose "preference": records with comparisons. "sft": records with one response each, or
    several equally good ones; of preferences the best, of labelled rows the true ones.

    Raises DataError naming file, row and column for malformed data.
    """
    return stream_records(spec, purpose=purpose, columns=columns).all()


def records_from_rows(rows: Iterable[Mapping[str, Any]], purpose: Purpose) -> RecordSet:
    """The same for rows in memory, which are named "rows, row 1" and so on."""
    return RecordStream(Source("rows", purpose, strict=True, rows=of_memory(rows))).all()


def stream_records(
    spec: Spec, *, purpose: Purpose, columns: Mapping[str, str] | None = None
) -> "RecordStream":
    """The records of `load_records`, one after another."""
    return RecordStream(Source(spec, purpose, columns, strict=True, keep=KEPT_ROWS))


def readable(rows: list[RawRow], columns: Mapping[str, str], purpose: Purpose) -> bool:
    """Whether rows under these names become records, none of them malformed."""
    return losing(rows, columns, purpose) is not None


class RecordStream:
    """Records one after another, in memory that does not grow with them.

    Rows with a label each are the exception: they are joined by prompt, so all of them are held.
    `dropped` and `notes` are complete once the records were iterated over.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.purpose = source.purpose
        self.rows_read = source.rows_read
        self.dropped: list[Dropped] = []
        self._joining: Counter[str] = Counter()

    @property
    def shape(self) -> str:
        """A sentence for a person."""
        return self.source.sentence

    @property
    def notes(self) -> list[str]:
        """How the data were read, what was left out within rows, and what is not read."""
        source = self.source
        counted = source.notes + self._joining
        notes = [*source.written.notes, *source.read_otherwise]
        notes += [note.format(n=f"{count:,}") for note, count in counted.items()]
        notes += learns_nothing(source)
        texts = source.unread_text
        for name, count in texts.items():
            notes.append(unread_sentence(name, count, self.rows_read))
        if extra := [name for name in source.unused_columns if name not in texts]:
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
        self.dropped, self._joining = [], Counter()
        labelled: list[Graded] = []
        for read in self.source.rows():
            if read.problem is not None:
                if read.problem.malformed:
                    raise DataError(read.problem.detail)
                self.dropped.append(Dropped(read.origin, read.problem.key, read.problem.detail))
                continue
            assert read.record is not None and read.row is not None
            if read.label is None:
                yield read.record, (read.origin,)
            else:
                labelled.append((read.record, read.label, strength_of(read.row)))
        if labelled:
            join = join_labels if self.purpose == "preference" else best_of_prompt
            yield from join(labelled, self.dropped, self._joining)
            # Joined in any order; told in the order of the files.
            self.dropped.sort(key=lambda d: (d.origin.file, d.origin.row))


def unread_sentence(name: str, count: int, total: int) -> str:
    """A column that carries text and is not read."""
    return (
        f'column "{name}" carries text in {count:,} of {total:,} rows ({count / total:.0%}) and is '
        "not read"
    )


def learns_nothing(source: Source) -> list[str]:
    """Columns that take the lesson out of every row."""
    found = []
    for part in source.parts:
        if part.strengths.get("weight") == (0.0, 0.0):
            found.append('every "weight" is 0, so that nothing can be learned from these rows')
        if part.strengths.get("probability") == (0.5, 0.5):
            found.append(
                'every "probability" is 0.5, a coin toss, so that no response is the better one'
            )
    return found
