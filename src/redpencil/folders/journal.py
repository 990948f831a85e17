"""A long job's rows, each on disk as soon as it is known: what a stopped job goes on from."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redpencil.errors import RunFolderError
from redpencil.locks import LOCK, lock
from redpencil.places import naming


class Journal:
    """An append-only JSON-lines file. Use as a context manager.

    rows: what the file held already. A last line without its end, left by a job that was killed
    while it wrote, is taken away. Raises RunFolderError where the file is damaged otherwise, or
    another command writes into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        whole = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._held = ExitStack()
        with ExitStack() as stack:
            stack.enter_context(lock(path.with_name(f".{path.name}{LOCK}"), str(path)))
            if path.exists():
                content = path.read_bytes()
                whole = content.rfind(b"\n") + 1
                self.rows = list(_rows(path, content[:whole]))
            self._file = stack.enter_context(path.open("ab"))
            self._file.truncate(whole)
            self._held = stack.pop_all()

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one row through to the disk."""
        line = json.dumps(row, ensure_ascii=False) + "\n"
        with naming(self.path):
            self._file.write(line.encode("utf-8", errors="backslashreplace"))
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with naming(self.path):
            self._held.close()


def _rows(path: Path, content: bytes) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise RunFolderError(
                    f"{path} is damaged: line {number} is not a JSON object; take the line out, "
                    "and what it held is done again"
                )
            yield row
