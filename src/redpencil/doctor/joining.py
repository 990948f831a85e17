"""Labelled rows joined by prompt, whatever their order, in memory that hardly grows with them.

The cells wait in a scratch file without a name. In memory stay 34 bytes a row (a hash of its
prompt, where its cells lie, its place, file and row) and as many again while they are sorted, and
the rows of one prompt at a time.
"""

import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from redpencil.data.contents import Row
from redpencil.data.judgements import strength_of
from redpencil.data.labelled import UNPAIRED, Labelled, join_labels, label_of
from redpencil.data.rows import Reader
from redpencil.data.split import prompt_key
from redpencil.doctor.stream import ReadRow
from redpencil.types import Dropped, Origin, Record

Joined = tuple[Record | None, tuple[Origin, ...], tuple[Dropped, ...]]
"""What the rows of one prompt became: a record with the rows it was made of, and the other rows."""


class LabelledRows:
    """Takes rows with a label and gives them back prompt by prompt, in order of first rows."""

    def __init__(self, reader: Reader) -> None:
        # What it notes is noted already: the rows were read before they came here.
        self._reader = Reader(reader.shape, reader.by, transcripts=reader.transcripts)
        self.notes = Counter[str]()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the rows are wanted)
        self._end = 0
        self._begins = array("Q")
        self._prompts = array("Q")
        self._labels = array("b")
        self._rows = array("Q")
        self._files = array("L")
        self._names: dict[str, int] = {}

    def add(self, read: ReadRow) -> None:
        """A row with a record and a label."""
        assert read.row is not None and read.record is not None and read.label is not None
        wanted = {*self._reader.shape.columns, "system", "tools", "weight", "margin", "probability"}
        cells = {name: value for name, value in read.row.cells.items() if name in wanted}
        line = json.dumps(cells, default=str).encode() + b"\n"
        key = prompt_key(read.record.prompt, read.record.tools)
        self._begins.append(self._end)
        self._end += self._file.write(line)
        self._prompts.append(int(key[:16], 16))
        self._labels.append(read.label)
        self._files.append(self._names.setdefault(read.origin.file, len(self._names)))
        self._rows.append(read.origin.row)

    def joined(self) -> Iterator[Joined]:
        """Every row that was added, in exactly one of the groups."""
        prompts = np.array(self._prompts, dtype=np.uint64)
        _, first, group = np.unique(prompts, return_index=True, return_inverse=True)
        order = np.argsort(first[group], kind="stable")
        ends = np.flatnonzero(np.diff(first[group][order])) + 1
        labels = np.array(self._labels, dtype=bool)
        for members in np.split(order, ends) if len(order) else ():
            if labels[members].all() or not labels[members].any():
                yield None, (), tuple(map(self._unpaired, members.tolist()))
            else:
                yield from self._join([self._read(i) for i in members.tolist()])

    def _join(self, group: Sequence[Labelled]) -> Iterator[Joined]:
        dropped: list[Dropped] = []
        for record, origins in join_labels(group, dropped, self.notes):
            yield record, origins, ()
        if dropped:
            yield None, (), tuple(dropped)

    def _unpaired(self, index: int) -> Dropped:
        other = "false" if self._labels[index] else "true"
        return Dropped(self._origin(index), UNPAIRED, f"no {other} response to the same prompt")

    def _origin(self, index: int) -> Origin:
        return Origin(list(self._names)[self._files[index]], self._rows[index])

    def _read(self, index: int) -> Labelled:
        self._file.seek(self._begins[index])
        row = Row(self._origin(index), json.loads(self._file.readline()))
        return self._reader.read(row), label_of(row), strength_of(row)
