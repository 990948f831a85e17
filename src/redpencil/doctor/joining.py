"""Labelled rows joined by prompt, whatever their order, in memory that hardly grows with them.

The cells wait in a scratch file without a name. In memory stay 49 bytes a row (a hash of its
prompt, where its cells lie, its place, file and row) and as many again while they are sorted, and
the rows of one prompt at a time.
"""

import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from redpencil.data.contents import Row
from redpencil.data.judgements import strength_of
from redpencil.data.labelled import (
    UNPAIRED,
    Graded,
    best_of_prompt,
    grade_of,
    join_labels,
    label_of,
    unpaired,
)
from redpencil.data.parts import Part
from redpencil.data.reading import ReadRow
from redpencil.data.rows import Reader
from redpencil.data.shapes import STRENGTHS, Purpose
from redpencil.data.split import prompt_key
from redpencil.types import Dropped, Origin, Record

Joined = tuple[Record | None, tuple[Origin, ...], tuple[Dropped, ...]]
"""What the rows of one prompt became: a record with the rows it was made of, and the other rows."""


class LabelledRows:
    """Takes rows with a label or a grade and gives them back prompt by prompt, in order of first
    rows; for SFT the best of each prompt, one by one."""

    def __init__(self, purpose: Purpose = "preference") -> None:
        self._purpose = purpose
        self._parts: list[Part] = []
        self._of_part = array("L")
        self.notes = Counter[str]()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the rows are wanted)
        self._end = 0
        self._begins = array("Q")
        self._prompts = array("Q")
        self._labels = array("d")
        self._rows = array("Q")
        self._files = array("L")
        self._names: dict[str, int] = {}

    def add(self, read: ReadRow) -> None:
        """A row with a record and a label."""
        assert read.row is not None and read.record is not None and read.label is not None
        assert read.part is not None, read.origin
        if read.part not in self._parts:
            self._parts.append(read.part)
        wanted = {*read.part.shape.columns, "score", "system", "tools", *STRENGTHS}
        cells = {name: value for name, value in read.row.cells.items() if name in wanted}
        line = json.dumps(cells, default=str).encode() + b"\n"
        key = prompt_key(read.record.prompt, read.record.tools)
        self._begins.append(self._end)
        self._end += self._file.write(line)
        self._prompts.append(int(key[:16], 16))
        self._labels.append(read.label)
        self._of_part.append(self._parts.index(read.part))
        self._files.append(self._names.setdefault(read.origin.file, len(self._names)))
        self._rows.append(read.origin.row)

    def joined(self) -> Iterator[Joined]:
        """Every row that was added, in exactly one of the groups."""
        prompts = np.array(self._prompts, dtype=np.uint64)
        _, first, group = np.unique(prompts, return_index=True, return_inverse=True)
        order = np.argsort(first[group], kind="stable")
        ends = np.flatnonzero(np.diff(first[group][order])) + 1
        labels = np.array(self._labels)
        for members in np.split(order, ends) if len(order) else ():
            if self._purpose == "preference" and np.ptp(labels[members]) == 0:
                yield None, (), tuple(map(self._unpaired, members.tolist()))
            else:
                yield from self._join([self._read(i) for i in members.tolist()])

    def _join(self, group: Sequence[Graded]) -> Iterator[Joined]:
        dropped: list[Dropped] = []
        join = join_labels if self._purpose == "preference" else best_of_prompt
        for record, origins in join(group, dropped, self.notes):
            yield record, origins, ()
        if dropped:
            yield None, (), tuple(dropped)

    def _unpaired(self, index: int) -> Dropped:
        return Dropped(self._origin(index), UNPAIRED, unpaired(self._labels[index]))

    def _origin(self, index: int) -> Origin:
        return Origin(list(self._names)[self._files[index]], self._rows[index])

    def _read(self, index: int) -> Graded:
        self._file.seek(self._begins[index])
        row = Row(self._origin(index), json.loads(self._file.readline()))
        part = self._parts[self._of_part[index]]
        # What it notes is noted already: the rows were read before they came here.
        reader = Reader(part.shape, part.layout.by, transcripts=part.transcripts)
        record = reader.read(row)
        if self._purpose == "sft":
            record = replace(record, weights=(strength_of(row).weight,))
        label = grade_of(row) if part.graded else float(label_of(row))
        return record, label, strength_of(row)
