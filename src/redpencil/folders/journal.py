"""A long job's rows, each on disk as soon as it is known: what a stopped job goes on from."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Journal:
    """An append-only JSON-lines file. Use as a context manager.

    rows: what the file held already. A last line without its end, left by a job that was killed
    while it wrote, is taken away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        whole = 0
        if path.is_file():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            self.rows = [json.loads(line) for line in content[:whole].split(b"\n") if line]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._file.truncate(whole)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one row through to the disk."""
        line = json.dumps(row, ensure_ascii=False) + "\n"
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
        self._file.close()
