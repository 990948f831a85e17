"""Texts and band keys of a data set on disk, in a temporary folder: memory stays flat."""

import json
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from redpencil.errors import DataError
from redpencil.types import Origin


class Spool:
    """Rows of texts, written in order and read by number, and columns of uint64 beside them.

    On disk: the texts, and 8 bytes a row and column. In memory: 8 bytes a row.

    Raises DataError where the temporary folder has no room.
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
        with self._room():
            self._end += self._texts.write(line.encode() + b"\n")

    def add_columns(self, values: np.ndarray) -> None:
        """(rows, columns) uint64, for the rows added since the last call."""
        with self._room():
            for file, column in zip(self._columns, values.T, strict=True):
                file.write(np.ascontiguousarray(column).data)

    def column(self, index: int) -> np.ndarray:
        """(rows,) uint64."""
        file = self._columns[index]
        with self._room():
            file.flush()
        file.seek(0)
        return np.fromfile(file, dtype=np.uint64)

    def read(self, number: int) -> tuple[Origin, tuple[str, ...]]:
        with self._room():
            self._texts.seek(self._starts[number])  # what is still to be written is written now
        file, row, *texts = json.loads(self._texts.readline())
        return Origin(file, row), tuple(texts)

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._folder.name}: texts cannot be kept there while they are compared "
                f"({error.strerror or error}); name a temporary folder with room in TMPDIR"
            ) from error

    def close(self) -> None:
        for file in (self._texts, *self._columns):
            file.close()
        self._folder.cleanup()
