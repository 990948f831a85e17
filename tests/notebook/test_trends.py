"""How all pairs move together: from where a change of log-probability is counted."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from redpencil.notebook import read_notebook, trends
from redpencil.notebook.schema import PAIR_SCHEMA, PAIRS, part_name


def row(split: str, step: int, pair: int, chosen: float, rejected: float) -> dict:
    """A measurement against a reference that gives both answers -50 nats."""
    made = {"split": split, "step": step, "pair": pair, "file": "pairs.jsonl", "row": pair}
    made |= {"logp_chosen": chosen, "logp_rejected": rejected}
    made |= {"ref_logp_chosen": -50.0, "ref_logp_rejected": -50.0, "weight": 0.5}
    margin = 0.1 * (chosen - rejected)
    return made | {"margin": margin, "length_chosen": 9, "length_rejected": 9}


def test_changes_are_counted_from_step_0_where_it_was_measured(tmp_path):
    parts = {
        0: [row("eval", 0, 0, -60.0, -40.0), row("eval", 0, 1, -70.0, -45.0)],
        10: [
            row("eval", 10, 0, -61.0, -42.0),
            row("eval", 10, 1, -72.0, -49.0),
            row("train", 5, 0, -53.0, -54.0),
        ],
    }
    (tmp_path / PAIRS).mkdir()
    for step, rows in parts.items():
        table = pa.Table.from_pylist(rows, PAIR_SCHEMA)
        parquet.write_table(table, tmp_path / PAIRS / part_name(step))
    found = trends(read_notebook(tmp_path))
    held_out = next(m for m in found["eval"] if m.step == 10)
    assert (held_out.chosen, held_out.rejected) == pytest.approx((-1.5, -3.0))
    (trained,) = found["train"]  # of training pairs only the reference's are known
    assert (trained.chosen, trained.rejected) == pytest.approx((-3.0, -4.0))
