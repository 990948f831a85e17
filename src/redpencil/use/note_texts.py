"""The texts of pairs: as the run wrote them, or, of training pairs, from the data it was given."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from redpencil.data.records import records_from_rows
from redpencil.data.sources import read_rows
from redpencil.errors import RedpencilError
from redpencil.folders.targets import run_recipe
from redpencil.notebook import Histories, PairHistory
from redpencil.recipes.stages import Recipe
from redpencil.report.rows import read_lines
from redpencil.types import Content

Texts = tuple[str, str, str]
"""Prompt, chosen and rejected."""

Place = tuple[str, int]
"""A data file, as the run calls it, and a row of it."""


def texts_of(run: Path, side: Histories, histories: Sequence[PairHistory]) -> dict[int, Texts]:
    """Texts by the pair's number: from `pairs.jsonl`, and of training pairs that are not among
    those sampled there from the data. What neither has is left out."""
    wanted = {h.pair for h in histories}
    found: dict[int, Texts] = {}
    for row in read_lines(run / "pairs.jsonl", []):
        if row.get("split") == side.split and row.get("pair") in wanted:
            found[row["pair"]] = (str(row["prompt"]), str(row["chosen"]), str(row["rejected"]))
    missing = [h for h in histories if h.pair not in found]
    recipe = run_recipe(str(run)) if missing and side.split == "train" else None
    if recipe is None:
        return found
    try:
        return found | dict(_from_data(recipe, side.by_row(missing)))
    except RedpencilError:  # the data were moved, or are no longer what they were
        return found


def _from_data(
    recipe: Recipe, in_row: Mapping[Place, Sequence[int]]
) -> Iterator[tuple[int, Texts]]:
    """Of each row that is as many comparisons as it has pairs, these in order."""
    left = dict(in_row)
    for origin, row in read_rows(recipe.data, columns=recipe.columns or None):
        numbers = left.pop((origin.file, origin.row), None)
        if numbers is None:
            continue
        records = records_from_rows([row], purpose="preference").records
        if len(records) == 1 and len(records[0].comparisons) == len(numbers):
            (record,) = records
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
