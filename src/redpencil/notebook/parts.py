"""`RUN/pairs.parquet` as arrays. Runs are read while they train: what is damaged is left out and
named, never guessed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from redpencil.notebook.schema import LENGTHS, NUMBERS, PAIR_SCHEMA, PAIRS, SPLITS


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """R measurements of the comparisons of one split, sorted by pair, then by step.

    step, pair, row: (R,) integers; file: (R,) indices into `files`; numbers: (R,) float32 under
    each name, NaN where not known (lengths are never unknown).
    """

    step: np.ndarray
    pair: np.ndarray
    file: np.ndarray
    row: np.ndarray
    numbers: Mapping[str, np.ndarray]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.step)


def read_parts(run_folder: Path) -> tuple[dict[str, Rows], tuple[str, ...]] | None:
    """The measurements of each split that has any, and what could not be read in words.

    None where the run has no `pairs.parquet`.
    """
    folder = run_folder / PAIRS
    if not folder.is_dir():
        return None
    tables, damaged = [], []
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            # Opened as one file: its neighbours may be written at this moment.
            table = parquet.ParquetFile(path).read()
            tables.append(table.select(PAIR_SCHEMA.names).cast(PAIR_SCHEMA))
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            damaged.append(f"{PAIRS}/{path.name} cannot be read ({reason[:120]})")
    return _by_split(tables), tuple(damaged)


def _by_split(tables: Sequence[pa.Table]) -> dict[str, Rows]:
    if not tables:
        return {}
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    split, splits = _codes(table, "split")
    file, files = _codes(table, "file")
    step, pair, row = (_integers(table, name) for name in ("step", "pair", "row"))
    numbers = {name: _floats(table, name) for name in NUMBERS}
    numbers |= {name: _integers(table, name) for name in LENGTHS}
    sides = {}
    for name in SPLITS:
        if name not in splits:
            continue
        inside = np.flatnonzero(split == splits.index(name))
        inside = inside[np.lexsort((step[inside], pair[inside]))]
        if len(inside):
            sides[name] = Rows(
                step=step[inside],
                pair=pair[inside],
                file=file[inside],
                row=row[inside],
                numbers={key: values[inside] for key, values in numbers.items()},
                files=files,
            )
    return sides


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
