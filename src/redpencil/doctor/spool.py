"""Texts and band keys of a data set on disk, in a temporary folder: memory stays flat."""

import json
import tempfile
from array import array
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from redpencil.types import Origin


class Spool:
    """Rows of texts, written in order and read by number, and columns of uint64 beside them.

    On disk: the texts, and 8 bytes a row and column. In memory: 8 bytes a row.
    """

    def __init__(self, columns: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="redpencil-check-")
        base = Path(self._folder.name)
        self._texts = (base / "texts.jsonl").open("wb+")
        self._columns = [(base / f"column-{i}").open("wb+") for i in range(columns)]
        self._starts = array("Q")
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, origin: Origin, texts: tuple[str, ...]) -> None:
        line = json.dumps([origin.file, origin.row, *texts])
        self._starts.append(self._end)
        self._end += self._texts.write(line.encode() + b"\n")

    def add_columns(self, values: np.ndarray) -> None:
        """(rows, columns) uint64, for the rows added since the last call."""
        for file, column in zip(self._columns, values.T, strict=True):
            file.write(np.ascontiguousarray(column).data)

    def column(self, index: int) -> np.ndarray:
        """(rows,) uint64."""
        file = self._columns[index]
        file.flush()
        file.seek(0)
        return np.fromfile(file, dtype=np.uint64)

    def read(self, number: int) -> tuple[Origin, tuple[str, ...]]:
        self._texts.seek(self._starts[number])
        file, row, *texts = json.loads(self._texts.readline())
        return Origin(file, row), tuple(texts)

    def close(self) -> None:
        for file in (self._texts, *self._columns):
            file.close()
        self._folder.cleanup()
