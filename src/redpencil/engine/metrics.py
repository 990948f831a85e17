"""Metrics of a run: one JSON object a line in `metrics.jsonl`, and the same in TensorBoard."""

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from redpencil.console import warn
from redpencil.places import naming, whole_file

Number = int | float


class MetricsLog:
    """Appends metrics by step. After a resume, lines past the checkpoint's step are dropped, so
    that a resumed run's file reads like an uninterrupted one's."""

    def __init__(self, folder: Path, *, resumed_at: int | None) -> None:
        self.path = folder / "metrics.jsonl"
        if resumed_at is not None:
            _drop_after(self.path, resumed_at)
        self._file = self.path.open("a" if resumed_at is not None else "w", encoding="utf-8")
        purge = 0 if resumed_at is None else resumed_at + 1
        self._board = _Board(folder / "tensorboard", purge)

    def write(self, step: int, metrics: Mapping[str, Number]) -> None:
        """Write one line; NaN and infinities become null, for JSON has no word for them."""
        finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        with naming(self.path):
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            self._file.flush()
        self._board.write(step, {k: v for k, v in finite.items() if v is not None})

    def close(self) -> None:
        # What could not be written would be tried once more.
        for file in (self._file, self._board):
            with contextlib.suppress(OSError):
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Board:
    """TensorBoard's file of a run, written here and now: its own writer does so in a thread, whose
    errors (a full disk) come as a traceback. purge: the step from which on earlier files count no
    more."""

    def __init__(self, folder: Path, purge: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._records = RecordWriter(self.path.open("wb"))
        self._add(step=purge, file_version="brain.Event:2")
        self._add(step=purge, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, metrics: Mapping[str, Number]) -> None:
        """Scalars of a step."""
        values = [self._summary.Value(tag=k, simple_value=v) for k, v in metrics.items()]
        self._add(step=step, summary=self._summary(value=values))

    def _add(self, **content: Any) -> None:
        with naming(self.path):
            event = self._event(wall_time=time.time(), **content)
            self._records.write(event.SerializeToString())
            self._records.flush()

    def close(self) -> None:
        self._records.close()


def read_metrics(path: Path) -> list[dict[str, Number | None]]:
    """The rows of a metrics file; a half line at the end (killed run) is left out, and so are lines
    that are damaged, with a warning."""
    if not path.is_file():
        return []
    rows, damaged = [], []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        elif line and number < len(lines):
            damaged.append(number)
    if damaged:
        warn(f"{path}: {len(damaged)} lines are damaged and left out, the first is {damaged[0]}")
    return rows


def _drop_after(path: Path, step: int) -> None:
    if not path.exists():
        warn(f"{path} is gone: the metrics up to step {step} are lost")
        return
    kept = [row for row in read_metrics(path) if (row["step"] or 0) <= step]
    with whole_file(path) as file:
        file.writelines(json.dumps(row) + "\n" for row in kept)
