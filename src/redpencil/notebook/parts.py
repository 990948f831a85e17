"""`RUN/pairs.parquet` as arrays. Runs are read while they train: what is damaged is left out and
named, never guessed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from redpencil.notebook.schema import JUDGES_AT_START, NUMBERS, PAIR_SCHEMA, PAIRS, SPLITS


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """R measurements of the comparisons of one split, sorted by pair, then by step.

    step, pair, row: (R,) integers; file: (R,) indices into `files`; numbers: (R,) float32 under
    each name, NaN where not known (lengths are never unknown). judges_at_start: whether the model
    had an opinion of its own before its first update.
    """

    step: np.ndarray
    pair: np.ndarray
    file: np.ndarray
    row: np.ndarray
    numbers: Mapping[str, np.ndarray]
    files: tuple[str, ...]
    judges_at_start: bool = False

    def __len__(self) -> int:
        return len(self.step)


def read_parts(
    run_folder: Path, splits: Sequence[str] = SPLITS, pairs: np.ndarray | None = None
) -> tuple[dict[str, Rows], tuple[str, ...]] | None:
    """The measurements of each of these splits that has any, and what could not be read in words.

    pairs: numbers of those that are wanted; None: all. None where the run has no `pairs.parquet`.
    """
    folder = run_folder / PAIRS
    if not folder.is_dir():
        return None
    wanted = pc.is_in(pc.field("split").cast(pa.string()), pa.array(splits, pa.string()))
    if pairs is not None:
        wanted &= pc.is_in(pc.field("pair"), pa.array(pairs, pa.int32()))
    tables, damaged, judges_at_start = [], [], False
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            # Opened as one file: its neighbours may be written at this moment.
            table = parquet.ParquetFile(path).read()
            said = (table.schema.metadata or {}).get(JUDGES_AT_START)
            table = table.select(PAIR_SCHEMA.names).cast(PAIR_SCHEMA)
            tables.append(table.filter(wanted))
            judges_at_start |= said == b"1"
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            damaged.append(f"{PAIRS}/{path.name} cannot be read ({reason[:120]})")
    return _by_split(tables, judges_at_start), tuple(damaged)


def measured_pairs(run_folder: Path, split: str) -> np.ndarray:
    """The numbers of the pairs of a split that were measured, ascending; of damaged parts none."""
    found = [np.empty(0, dtype=np.int32)]
    for path in sorted((run_folder / PAIRS).glob("part-*.parquet")):
        try:
            table = parquet.ParquetFile(path).read(columns=["split", "pair"])
            inside = table.filter(pc.field("split").cast(pa.string()) == split)
            found.append(np.unique(inside["pair"].to_numpy()))
        except (pa.ArrowException, OSError, KeyError, ValueError):
            continue
    return np.unique(np.concatenate(found))


def _by_split(tables: list[pa.Table], judges_at_start: bool) -> dict[str, Rows]:
    """Column by column, each let go of once it is sorted: there may be millions of rows."""
    if not tables:
        return {}
    table = pa.concat_tables(tables).unify_dictionaries()
    tables.clear()
    split, splits = _codes(table, "split")
    file, files = _codes(table, "file")
    order = {name: _sorted(table, split, splits.index(name)) for name in SPLITS if name in splits}
    columns: dict[str, dict[str, np.ndarray]] = {name: {} for name in order}
    table = table.drop_columns(["split", "file"])
    for name in table.column_names:
        values = _floats(table, name) if name in NUMBERS else _integers(table, name)
        table = table.drop_columns([name])
        for side, inside in order.items():
            columns[side][name] = values[inside]
    return {
        side: Rows(
            step=own.pop("step"),
            pair=own.pop("pair"),
            file=file[order[side]],
            row=own.pop("row"),
            numbers=own,
            files=files,
            judges_at_start=judges_at_start,
        )
        for side, own in columns.items()
        if len(order[side])
    }


def _sorted(table: pa.Table, split: np.ndarray, code: int) -> np.ndarray:
    """The rows of a split by pair, then by step."""
    inside = np.flatnonzero(split == code)
    step, pair = (_integers(table, name)[inside] for name in ("step", "pair"))
    return inside[np.lexsort((step, pair))]


def _codes(table: pa.Table, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    column = table[name].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return column.indices.to_numpy(zero_copy_only=False), tuple(column.dictionary.to_pylist())


def _integers(table: pa.Table, name: str) -> np.ndarray:
    return table[name].fill_null(0).to_numpy()


def _floats(table: pa.Table, name: str) -> np.ndarray:
    """NaN for null."""
    values: np.ndarray = table[name].to_numpy()
    return values.astype(np.float32, copy=False)
