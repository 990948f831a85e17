"""What a file is, from all its rows: its shape, and how a row of it is read.

Files of one shape are one part of a data set. A part knows which columns its rows need, which it
does not read though they carry text, and which change the loss.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from redpencil.data.columns import FIELDS
from redpencil.data.contents import Row, SetAside
from redpencil.data.foreign import SIDES, Foreign, foreign_of
from redpencil.data.judgements import numbers_read, strength_of
from redpencil.data.labelled import label_of
from redpencil.data.rows import Reader, best_only
from redpencil.data.shapes import (
    EXTRAS,
    JUDGEMENTS,
    LABELLERS,
    STRENGTHS,
    Kinds,
    Purpose,
    Shape,
    deviant,
    shape_of,
)
from redpencil.data.sources import Remarks
from redpencil.data.transcripts import TranscriptVote
from redpencil.types import Origin, Record

UNREADABLE = "unreadable-row"
MISSING = "missing-field"
MISTYPED = "mistyped-field"
MIXED = "mixed-shapes"
NOT_UNICODE = "not valid Unicode"
_MOST_SETS = 4096
"""Different sets of columns that are told apart; a file with more has names made of data."""
_FIELDS = frozenset(FIELDS)

Seen = dict[frozenset[str], tuple[int, Origin]]
"""Each set of columns with how often and where first it occurs."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row is no record.

    malformed: training stops at such a row, else it sets it aside. key: UNREADABLE and so on, or
    the reason of the row that is set aside; detail: what was seen.
    """

    malformed: bool
    key: str
    detail: str


@dataclass(slots=True)
class Scan:
    """What the first reading learns of a file, or of several."""

    seen: Seen = field(default_factory=dict)
    kinds: Kinds = field(default_factory=Kinds)
    vote: TranscriptVote = field(default_factory=TranscriptVote)
    some_text: bool = False

    def see(self, cells: Mapping[str, Any], origin: Origin) -> None:
        self.vote.add(cells.get("chosen"), cells.get("rejected"))
        self.some_text = self.some_text or isinstance(cells.get("chosen"), str)
        self.kinds.see(cells)
        present = frozenset(k for k, v in cells.items() if v is not None)
        if len(self.seen) >= _MOST_SETS and present not in self.seen:
            present &= _FIELDS
        count, first = self.seen.get(present, (0, origin))
        self.seen[present] = count + 1, first

    @classmethod
    def together(cls, several: Sequence["Scan"]) -> "Scan":
        if len(several) == 1:
            return several[0]
        made = cls(kinds=Kinds.together(s.kinds for s in several))
        for scan in several:
            made.vote.join(scan.vote)
            made.some_text = made.some_text or scan.some_text
            for present, (count, first) in scan.seen.items():
                before, earlier = made.seen.get(present, (0, first))
                made.seen[present] = before + count, earlier
        return made

    @property
    def union(self) -> frozenset[str]:
        return frozenset[str]().union(*self.seen)


@dataclass(frozen=True, slots=True)
class Layout:
    """A shape, the judgement of its ranked rows, and the shape of others that it is made from."""

    shape: Shape
    by: str
    foreign: Foreign | None = None

    @property
    def key(self) -> tuple[Shape, str, str]:
        return self.shape, self.by, self.foreign.name if self.foreign else ""

    def needed(self, union: frozenset[str]) -> tuple[str, ...]:
        return self.foreign.needed if self.foreign else self.shape.needed(union)

    def fits(self, present: frozenset[str], union: frozenset[str]) -> bool:
        return present.issuperset(self.needed(union))


def layout_of(present: frozenset[str], scan: Scan) -> Layout | None:
    """What rows with these columns are."""
    foreign = foreign_of(present, scan.kinds)
    if foreign is not None and not (scan.vote.won and set(SIDES) <= set(foreign.columns)):
        return Layout(foreign.shape, foreign.by, foreign)
    shape = shape_of(present)
    return None if shape is None else Layout(shape, judgement(present))


def judgement(present: frozenset[str]) -> str:
    """The judgement that counts of those present."""
    return next((j for j in JUDGEMENTS if j in present), "")


def layout_of_all(scan: Scan) -> Layout | None:
    """What training finds, if no row stands against it."""
    union = scan.union
    layout = layout_of(union, scan)
    fits = layout is not None and all(layout.fits(present, union) for present in scan.seen)
    return layout if fits else None


def layout_of_most(scan: Scan) -> Layout | None:
    """The shape, and the judgement, that most rows have by themselves."""
    counts: Counter[tuple[Shape, str, str]] = Counter()
    found: dict[tuple[Shape, str, str], Layout] = {}
    for present, (count, _) in scan.seen.items():
        own = layout_of(present, scan)
        if own is not None:
            counts[own.key] += count
            found.setdefault(own.key, own)
    return found[counts.most_common(1)[0][0]] if counts else None


class Part:
    """Files of one shape, and how their rows are read. uniform: every row has the shape's columns.

    reader: counts what was left out within rows. unread: rows in which a column that is not read
    carries text, by column.
    """

    def __init__(self, layout: Layout, scan: Scan, *, uniform: bool) -> None:
        self.layout = layout
        self.scan = scan
        self.uniform = uniform
        union = scan.union
        by = {layout.by} - {""}
        self.union = union if layout.foreign else union - set(JUDGEMENTS) | by
        own = [p for p in scan.seen if uniform or self._own(p)]
        self.own = self.union & frozenset[str]().union(*own)
        implicit = layout.shape.kind == "implicit"
        self.transcripts = implicit and scan.vote.won
        self.graded = layout.foreign is not None and layout.foreign.graded
        self.begin()

    def begin(self) -> None:
        self.reader = Reader(self.shape, self.layout.by, transcripts=self.transcripts)
        self.unread: Counter[str] = Counter()
        self.rows = 0
        self.strengths: dict[str, tuple[float, float]] = {}

    def _own(self, present: frozenset[str]) -> bool:
        other = layout_of(present, self.scan)
        return other is None or other.key == self.layout.key

    @property
    def shape(self) -> Shape:
        return self.layout.shape

    @property
    def first(self) -> Origin:
        """A row that is of the shape."""
        fitting = (
            first
            for present, (_, first) in self.scan.seen.items()
            if self.layout.fits(present, self.union)
        )
        return next(fitting, next(iter(self.scan.seen.values()))[1])

    def joined(self, purpose: Purpose) -> bool:
        """Whether rows are joined by prompt, by their labels or grades."""
        return self.shape.kind == "labelled" and (purpose == "preference" or self.graded)

    def unused(self, purpose: Purpose) -> list[str]:
        """Columns of these rows that are not read."""
        read = {*self.layout.needed(self.union), *EXTRAS}
        read |= STRENGTHS if purpose == "preference" else {"weight"}
        if self.layout.foreign:
            read |= self.layout.foreign.reads
        if "comparisons" in read:
            read |= LABELLERS
        if "prompt_ids" in self.shape.columns:
            read -= EXTRAS
        return sorted(self.own - read)

    def deviation(self, row: Row) -> Problem | None:
        """What is wrong with a row that is not of this shape."""
        present = frozenset(k for k, v in row.cells.items() if v is not None)
        needed = self.layout.needed(self.union)
        if not self.uniform and not self._own(present):
            own = layout_of(present, self.scan)
            assert own is not None, present
            this, most = " / ".join(own.needed(present)), " / ".join(needed)
            return Problem(
                True,
                MIXED,
                f"{row.origin}: rows of different shapes: this one has {this}, most have {most}; "
                "give them in separate files",
            )
        missing = [c for c in needed if c not in present]
        if missing:
            error = deviant(self.shape, needed, present, missing[0], row.origin)
            return Problem(True, MISSING, str(error))
        return None

    def made(self, row: Row, notes: Remarks) -> Row:
        """The row under our names. Raises DataError, SetAside."""
        cells = row.cells
        if self.layout.foreign:
            cells = self.layout.foreign.made(row, self.scan.kinds)
        return Row(row.origin, numbers_read(cells, notes))

    def see_unread(self, row: Row, columns: Sequence[str]) -> None:
        """Count the columns that carry text which training will not see."""
        self.rows += 1
        for name in columns:
            value = row.cells.get(name)
            if carries_text(value) and not any(
                _alike(row.cells.get(read), value) for read in self.layout.needed(self.union)
            ):
                self.unread[name] += 1

    def see_strength(self, record: Record) -> None:
        """Remember from what to what weight, margin and probability go."""
        for name in STRENGTHS & self.own:
            values = [getattr(c, name) for c in record.comparisons]
            if not values and name == "weight":
                values = list(record.weights or ())
            if values:
                low, high = self.strengths.get(name, (values[0], values[0]))
                self.strengths[name] = min(low, *values), max(high, *values)


def _alike(read: Any, value: Any) -> bool:
    """Whether a value is what is read, or a piece of its text."""
    if isinstance(read, str) and isinstance(value, str):
        return value.strip() in read
    return type(read) is type(value) and not isinstance(read, np.ndarray) and bool(read == value)


def carries_text(value: Any, depth: int = 4) -> bool:
    """Whether somebody wrote something there: several words, not a name, a number or a mark."""
    if isinstance(value, str):
        return len(value.split(None, 3)) >= 3 or (len(value) >= 12 and not value.isascii())
    if depth and isinstance(value, Mapping):
        return any(carries_text(v, depth - 1) for v in value.values())
    if depth and isinstance(value, list | tuple):
        return any(carries_text(v, depth - 1) for v in value[:8])
    return False


def part_sentence(part: Part, purpose: Purpose) -> str:
    """The shape in words: "prompt / chosen / rejected (strings)"."""
    shape = part.shape
    if part.layout.foreign:
        own = " / ".join(part.layout.foreign.columns)
        words = f"{own} ({part.layout.foreign.name})"
    else:
        words = f"{' / '.join(shape.needed(part.union))} ({_form(part)})"
    if strengths := _strengths(part):
        words = f"{words}, with {strengths}"
    if purpose == "preference" and part.graded:
        return f"{words}: every better one beats every worse one"
    if purpose == "preference" and shape.kind == "labelled":
        return f"{words}, joined by prompt: every true one beats every false one"
    if purpose == "sft" and (part.graded or shape.kind in ("pair", "implicit", "ranked")):
        return f"{words}, of which only the best responses are taken"
    if purpose == "sft" and shape.kind == "labelled":
        return f"{words}, of which only those with a true label are taken"
    return words


def _form(part: Part) -> str:
    shape, forms = part.shape, part.reader.forms
    if shape.columns[0].endswith("_ids"):
        return "token ids"
    if part.transcripts:
        return "Human / Assistant transcripts, the prompt being all before the last answer"
    if shape.kind == "implicit" and "strings" in forms:
        return "strings, the prompt being their shared beginning"
    if shape.kind == "implicit":
        return "message lists, the prompt being the turns they share"
    if "conversations" in shape.columns:
        return "ShareGPT"
    return " and ".join(sorted(forms, reverse=True)) or "none usable"


def _strengths(part: Part) -> str:
    """Columns that change the loss, with what they hold."""
    return " and ".join(
        f"{name} {low:g}" if low == high else f"{name} from {low:g} to {high:g}"
        for name, (low, high) in sorted(part.strengths.items())
    )


def read_record(part: Part, row: Row, purpose: Purpose) -> Record:
    """The record of one row. Raises DataError if it is malformed, SetAside if it is unusable."""
    record = part.reader.read(row)
    if purpose == "sft":
        return _for_sft(part, row, record)
    # Comparisons keep their row: rows that share a prompt will join one tree.
    compared = (replace(c, origin=record.origin) for c in record.comparisons)
    return replace(record, comparisons=tuple(compared))


def _for_sft(part: Part, row: Row, record: Record) -> Record:
    weight = strength_of(row).weight
    if record.comparisons:
        return best_only(record, weight)
    if part.shape.kind == "labelled" and not part.graded and not label_of(row):
        raise SetAside("label is false")
    return replace(record, weights=(weight,))
