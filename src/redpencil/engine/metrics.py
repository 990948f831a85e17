"""Metrics of a run: one JSON object a line in `metrics.jsonl`, and the same in TensorBoard."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

Number = int | float


class MetricsLog:
    """Appends metrics by step. After a resume, lines past the checkpoint's step are dropped, so
    that a resumed run's file reads like an uninterrupted one's."""

    def __init__(self, folder: Path, *, resumed_at: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "metrics.jsonl"
        if resumed_at is not None:
            _drop_after(path, resumed_at)
        self._file = path.open("a" if resumed_at is not None else "w", encoding="utf-8")
        purge = 0 if resumed_at is None else resumed_at + 1
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def write(self, step: int, metrics: Mapping[str, Number]) -> None:
        """Write one line; NaN and infinities become null, for JSON has no word for them."""
        finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        for name, value in finite.items():
            if value is not None:
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Number | None]]:
    """All whole lines of a metrics file; a half line at the end (killed run) is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _drop_after(path: Path, step: int) -> None:
    kept = [row for row in read_metrics(path) if (row["step"] or 0) <= step]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
