"""The texts of pairs: as the run wrote them, or, of training pairs, from the data it was given."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from redpencil.data.reading import Source
from redpencil.errors import RedpencilError
from redpencil.folders.targets import run_recipe
from redpencil.notebook import Histories, PairHistory
from redpencil.report.rows import read_lines
from redpencil.types import Content
from redpencil.use.run_data import run_data

Texts = tuple[str, str, str]
"""Prompt, chosen and rejected."""


def texts_of(
    run: Path, side: Histories, histories: Sequence[PairHistory], data: str | None = None
) -> dict[int, Texts]:
    """Texts by the pair's number: from `pairs.jsonl`, and of training pairs that are not among
    those sampled there from the data. What neither has is left out.

    data: where the run's data lie now, if they were moved. Raises DataError where they do not, or
    are not those that the run had.
    """
    wanted = {h.pair for h in histories}
    found: dict[int, Texts] = {}
    for row in read_lines(run / "pairs.jsonl", []):
        if row.get("split") == side.split and row.get("pair") in wanted:
            found[row["pair"]] = (str(row["prompt"]), str(row["chosen"]), str(row["rejected"]))
    missing = [h for h in histories if h.pair not in found or data is not None]
    recipe = run_recipe(str(run)) if missing and side.split == "train" else None
    if recipe is None:
        return found
    origin = run_data(run, recipe, side.split, data)
    in_file: dict[str, dict[int, list[int]]] = {}
    for (file, place), numbers in side.by_row(missing).items():
        in_file.setdefault(file, {})[place] = numbers
    for file, in_row in in_file.items():
        try:
            path = origin.path_of(file)
            found = dict(_from_data(path, recipe.columns, in_row)) | found
        except RedpencilError:  # moved, or no longer what it was
            if data is not None:
                raise
    return found


def _from_data(
    path: str, columns: Mapping[str, str], in_row: Mapping[int, Sequence[int]]
) -> Iterator[tuple[int, Texts]]:
    """Of each row that is as many comparisons as it has pairs, these in order."""
    left = dict(in_row)
    for read in Source(path, "preference", columns).rows():
        numbers = left.pop(read.origin.row, None)
        record = read.record
        if numbers is None or record is None:
            continue
        if len(record.comparisons) == len(numbers):
            for number, c in zip(numbers, record.comparisons, strict=True):
                ends = (record.prompt, record.responses[c.chosen], record.responses[c.rejected])
                yield number, (_plain(ends[0]), _plain(ends[1]), _plain(ends[2]))
        if not left:
            return


def _plain(content: Content) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, np.ndarray):
        return " ".join(map(str, content.tolist()))
    return "\n".join(f"{m.get('role')}: {m.get('content')}" for m in content)
