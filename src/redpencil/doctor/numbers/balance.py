"""Where the rows come from: prompts that come again and again, files and sources that dominate."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from redpencil.data.reading import ReadRow
from redpencil.doctor.findings import SHOWN_ROWS, Finding
from redpencil.doctor.tally import excerpt
from redpencil.doctor.view import View
from redpencil.types import Origin

DOMINANT = 0.05
"""Share of the rows from which one prompt is said to dominate, if it is there"""
OFTEN = 20
"""times and more."""

SOURCES = ("source", "dataset", "data_source", "origin", "subset", "domain", "category", "task")
"""Columns that say where a row comes from, the first that there is."""
MOST_SOURCES = 200
"""Different values; a column with more says something else."""
LONGEST_NAME = 100
SKEWED = 0.9
"""Share of the rows from which one source is said to dominate."""


class Prompts:
    """How often each prompt is there among the rows to learn from: as training splits them, before
    any is shortened. Memory for R rows: 8 R bytes, and 24 R for a moment."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._origins = _Origins()

    def see(self, row: View) -> None:
        if row.kept:
            self._hashes.append(row.prompt_hash)
            self._origins.add(row.origin)

    def _counted(self) -> tuple[np.ndarray, np.ndarray]:
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        return np.unique(hashes, return_counts=True)

    def statistics(self) -> Mapping[str, Any]:
        _, counts = self._counted()
        return {
            "distinct_prompts": len(counts),
            "most_rows_of_a_prompt": int(counts.max(initial=0)),
        }

    def findings(self, total: int) -> Iterable[Finding]:
        hashes, counts = self._counted()
        if len(counts) == 1 and counts[0] > 1:
            yield self._single(int(counts[0]))
        elif len(counts) > 1 and counts.max() >= max(OFTEN, DOMINANT * counts.sum()):
            yield self._dominant(hashes, counts)

    def _dominant(self, hashes: np.ndarray, counts: np.ndarray) -> Finding:
        top = int(counts.argmax())
        rows = np.flatnonzero(np.frombuffer(self._hashes, dtype=np.uint64) == hashes[top])
        share = counts[top] / counts.sum()
        return Finding(
            key="dominant-prompt",
            group="statistics",
            severity="note",
            title="One prompt in many rows",
            text=f"One prompt stands in {counts[top]:,} of {counts.sum():,} rows ({share:.1%}); "
            f"there are {len(counts):,} different prompts.",
            count=int(counts[top]),
            of=int(counts.sum()),
            rows=tuple(self._origins[int(i)] for i in rows[:SHOWN_ROWS]),
            why="Training hears this prompt as often as all that share counts for, and the split "
            "by prompt puts all its rows on one side.",
            advice="Take a few rows of it, or give them a smaller weight column.",
        )

    def _single(self, rows: int) -> Finding:
        return Finding(
            key="single-prompt",
            group="statistics",
            severity="warning",
            title="One prompt in all rows",
            text=f"All {rows:,} rows have the same prompt.",
            count=rows,
            of=rows,
            rows=tuple(self._origins[i] for i in range(min(rows, SHOWN_ROWS))),
            why="Training and evaluation are split by prompt, so nothing can be held out, and "
            "nothing says whether training helped.",
            advice="Name the column that tells the prompts apart (--columns prompt=NAME), or give "
            "data of its own for the evaluation (--eval-data).",
        )


class _Origins:
    """Origins by number: 4 bytes each, and one entry for each run of rows of a file."""

    def __init__(self) -> None:
        self._rows = array("I")
        self._starts: list[tuple[int, str]] = []

    def add(self, origin: Origin) -> None:
        if not self._starts or self._starts[-1][1] != origin.file:
            self._starts.append((len(self._rows), origin.file))
        self._rows.append(origin.row)

    def __getitem__(self, number: int) -> Origin:
        file = next(name for start, name in reversed(self._starts) if start <= number)
        return Origin(file, self._rows[number])


class Sources:
    """Rows by file, and by a column that says where they come from. Memory: one count for each."""

    def __init__(self) -> None:
        self._files: Counter[str] = Counter()
        self._columns: dict[str, Counter[str]] = {}
        self._first: dict[str, Origin] = {}

    def see_row(self, read: ReadRow) -> None:
        self._files[read.origin.file] += 1
        if read.row is None:
            return
        for column in SOURCES:
            value = read.row.cells.get(column)
            if isinstance(value, str) and value and len(value) <= LONGEST_NAME:
                counts = self._columns.setdefault(column, Counter())
                if len(counts) <= MOST_SOURCES:
                    counts[value] += 1
                    self._first.setdefault(value, read.origin)

    def _named(self) -> tuple[str, Counter[str]] | None:
        for column in SOURCES:
            counts = self._columns.get(column)
            if counts and len(counts) <= MOST_SOURCES:
                return column, counts
        return None

    def statistics(self) -> Mapping[str, Any]:
        said: dict[str, Any] = {"files": dict(self._files.most_common(MOST_SOURCES))}
        if named := self._named():
            column, counts = named
            said["sources"] = {"column": column, "rows": dict(counts.most_common())}
        return said

    def findings(self, total: int) -> Iterable[Finding]:
        named = self._named()
        if named is None or len(named[1]) < 2:
            return
        column, counts = named
        (name, count), rows = counts.most_common(1)[0], sum(counts.values())
        if count < SKEWED * rows:
            return
        rest = ", ".join(f"{excerpt(n)} {c:,}" for n, c in counts.most_common()[1:6])
        yield Finding(
            key="source-imbalance",
            group="statistics",
            severity="note",
            title="One source outweighs the others",
            text=f'{count / rows:.1%} of the rows have {column} "{excerpt(name)}"; the others '
            f"are {rest}{' and so on' if len(counts) > 6 else ''}.",
            count=count,
            of=rows,
            rows=(self._first[name],),
            why="The model learns the large source; an average over the evaluation hides the "
            "small ones.",
            advice="Give the small sources a larger column weight, or evaluate them apart "
            "(--eval-data).",
        )
