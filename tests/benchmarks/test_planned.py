"""The benchmark of plans: its own logic, on a model of which no time is worth anything."""

import pytest
from benchmarks.cases import Shape
from benchmarks.planned import HEADER, measure

from benchmarks import planned


@pytest.mark.slow  # three processes that import everything
def test_a_row_holds_what_was_planned_and_what_happened(tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "PAIRED_PROMPTS", 12)
    tiny = Shape(hidden=64, layers=1, intermediate=64, heads=1)
    row = measure("k4", 4, tmp_path, None, tiny)
    assert len(row) == len(HEADER) and row[0] == "k4"
    step, real, ratio = map(float, row[1:4])
    assert step > 0 and real > 0 and abs(ratio - real / step) < 0.3 * ratio + 0.01
    tensors, memory, most = (int(cell.replace(",", "")) for cell in row[4:7])
    # Weights, gradients and AdamW's states of 8,192 x 64 numbers are 8 MB.
    assert 8 < tensors < 200 and tensors + 200 < memory and 200 < most < 1_000


@pytest.mark.slow
@pytest.mark.parametrize("case", ["k4", "short_prompt"])
def test_a_process_holds_what_was_planned(case, tmp_path):
    """Within 15 % of what the system counted."""
    row = measure(case, 8, tmp_path, None)
    assert float(row[-1]) == pytest.approx(1.0, abs=0.15)
