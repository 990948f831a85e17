"""Hand-made notebooks on disk (`from histories import write`)."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from redpencil.notebook.schema import JUDGES_AT_START, NUMBERS, PAIR_SCHEMA, PAIRS, part_name

BETA = 0.1


def row(split: str, step: int, pair: int, margin: float, **changed: Any) -> dict[str, Any]:
    """A measurement with this margin, all of it moved by the chosen response."""
    row = {
        "split": split,
        "step": step,
        "pair": pair,
        "file": "pairs.jsonl",
        "row": pair + 1,
        "reward_chosen": margin,
        "reward_rejected": 0.0,
        "margin": margin,
        "weight": 0.5,
        "logp_chosen": margin / BETA - 40,
        "logp_rejected": -50.0,
        "ref_logp_chosen": -40.0,
        "ref_logp_rejected": -50.0,
        "length_chosen": 7,
        "length_rejected": 9,
    }
    return {**row, **changed}


def write(
    run: Path,
    parts: Mapping[int, Iterable[Mapping[str, Any]]],
    *,
    judges_at_start: bool | None = None,
) -> Path:
    """Parts of a notebook, by step. judges_at_start: what the writer said of it, None nothing."""
    said = None if judges_at_start is None else {JUDGES_AT_START: b"01"[judges_at_start:][:1]}
    folder = run / PAIRS
    folder.mkdir(parents=True, exist_ok=True)
    for step, rows in parts.items():
        table = pa.Table.from_pylist([dict(r) for r in rows], PAIR_SCHEMA)
        parquet.write_table(table.replace_schema_metadata(said), folder / part_name(step))
    return run


def of_a_reward_model(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, **{name: None for name in NUMBERS if "logp" in name}}
