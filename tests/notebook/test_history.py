"""What became of each pair: hand-made histories with known kinds, and an obvious slow way."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histories import of_a_reward_model, row, write
from redpencil.cli import note
from redpencil.notebook import KINDS, Histories, measured_pairs, read_notebook, trends
from redpencil.notebook.schema import PAIRS

HISTORIES = {
    # margins at steps 0, 10, 20, 30 of an evaluation
    "corrected": [(0, -1, 1, 2), (0, -0.1, -0.1, 0.1), (0, 0, -1, 1), (5, -1, -1, 1)],
    "broken": [(0, 1, 0.5, -1), (0, 0, 1, -1), (0, 1, -1, -1)],
    "stubborn": [(0, -1, -2, -3), (0, 0, 0, -1), (3, -1, -1, -1), (0, -1, 0, -1)],
    "right": [(0, 1, 1, 1), (0, 1, -1, 1), (-9, 1, 2, 3)],
    "undecided": [(0, 0, 0, 0), (0, 1, 1, 0), (0, -1, -1, 0), (4, 0, 0, 0), (0, -1, 1, -1)],
}


def of_margins(run: Path, histories, split="eval", steps=(0, 10, 20, 30), judges_at_start=None):
    rows = {step: [] for step in steps}
    for pair, margins in enumerate(histories):
        for step, margin in zip(steps, margins, strict=True):
            rows[step].append(row(split, step, pair, margin))
    return read_notebook(write(run, rows, judges_at_start=judges_at_start))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_known_histories(tmp_path, kind):
    notebook = of_margins(tmp_path, HISTORIES[kind])
    assert [h.kind for h in notebook.pairs("eval")] == [kind] * len(HISTORIES[kind])
    assert notebook.sides["eval"].counts[kind] == len(HISTORIES[kind])


def test_a_history_has_its_numbers(tmp_path):
    notebook = of_margins(tmp_path, [(0, -1, 1, -2), (0, 0, 0, 0)])
    one, tie = notebook.pairs("eval")
    assert (one.file, one.row, one.pair, one.split) == ("pairs.jsonl", 1, 0, "eval")
    assert (one.first_step, one.last_step, one.first_margin, one.last_margin) == (10, 30, -1, -2)
    assert (one.turns, one.looks) == (2, 3)
    assert one.margins == ((0, 0), (10, -1), (20, 1), (30, -2))
    assert (one.logp_chosen, one.ref_logp_chosen, one.length_rejected) == (-60, -40, 9)
    assert (tie.first_step, tie.first_margin, tie.looks, tie.turns) == (0, 0, 0, 0)
    assert notebook.pairs("train") == ()
    assert notebook.pairs("eval")[-1] == tie
    assert notebook.pairs("eval")[:1] == [one]
    with pytest.raises(IndexError):
        notebook.pairs("eval")[2]


def test_training_pairs_are_first_looked_at_in_step_2(tmp_path):
    """In step 1 they are measured before the first update."""
    steps = (1, 2, 9)
    notebook = of_margins(tmp_path, [(-1, 1, 1), (-1, -1, 1), (1, 0, 0)], "train", steps)
    assert [h.kind for h in notebook.pairs("train")] == ["right", "corrected", "undecided"]


@pytest.mark.parametrize(("split", "steps"), [("eval", (0, 10, 20)), ("train", (1, 2, 9))])
def test_a_model_with_an_opinion_before_training_is_looked_at_there(tmp_path, split, steps):
    """As a policy that does not begin as its reference, or a head that was loaded."""
    histories = [(-1, 1, 1), (1, -1, -1), (0, -1, -1), (2, -1, 1), (-1, 0, 0)]
    kinds = {
        True: ["corrected", "broken", "stubborn", "right", "undecided"],
        False: ["right", "stubborn", "stubborn", "corrected", "undecided"],
    }
    for judges, expected in kinds.items():
        notebook = of_margins(tmp_path / str(judges), histories, split, steps, judges)
        assert [h.kind for h in notebook.pairs(split)] == expected
        assert notebook.pairs(split)[0].first_step == steps[0 if judges else 1]
        assert notebook.pairs(split)[0].looks == (3 if judges else 2)


def test_a_part_of_a_notebook_is_read(tmp_path):
    """One split, or some pairs, as the whole has them."""
    rows = {
        step: [row(split, step, p, m) for split in ("train", "eval") for p, m in pairs]
        for step, pairs in {4: [(0, -1.0), (2, 1.0), (5, 1.0)], 9: [(5, -2.0), (7, 1.0)]}.items()
    }
    run = write(tmp_path, rows)
    whole = read_notebook(run)
    one = read_notebook(run, splits=("eval",))
    assert list(one.sides) == ["eval"]
    assert list(one.pairs("eval")) == list(whole.pairs("eval"))
    some = read_notebook(run, splits=("train",), pairs=np.array([5, 6, 7]))
    assert list(some.pairs("train")) == [h for h in whole.pairs("train") if h.pair in (5, 7)]
    assert measured_pairs(run, "train").tolist() == [0, 2, 5, 7]
    assert measured_pairs(tmp_path / "nowhere", "train").tolist() == []


def test_of_many_pairs_only_the_first_are_made(tmp_path, monkeypatch):
    side = of_margins(tmp_path, [(0, 1, 1, -m) for m in range(1, 9)]).sides["eval"]
    made, make = [], Histories._made
    monkeypatch.setattr(Histories, "_made", lambda self, at: made.append(at) or make(self, at))
    assert [h.pair for h in side.of_kind("broken", top=2)] == [7, 6]
    assert made == [7, 6]


def test_a_margin_of_0_is_a_tie(tmp_path):
    """Whoever writes a margin writes 0 within rounding: here nothing is known of the rewards."""
    rows = [
        row("eval", 10, 0, 0.0, logp_chosen=-39.99996),
        row("eval", 10, 1, 4e-5, logp_chosen=-39.9996),
    ]
    notebook = read_notebook(write(tmp_path, {10: rows}))
    assert [h.kind for h in notebook.pairs("eval")] == ["undecided", "right"]


def test_a_reward_model_has_no_log_probabilities(tmp_path):
    rows = {
        step: [of_a_reward_model(row("eval", step, 0, margin))]
        for step, margin in ((0, 0.4), (5, -1e-7), (10, 2.0))
    }
    notebook = read_notebook(write(tmp_path, rows))
    (only,) = notebook.pairs("eval")
    assert only.kind == "corrected"  # a random head is right by chance only
    assert only.logp_chosen is None
    assert only.ref_logp_rejected is None
    assert [m.chosen for m in trends(notebook)["eval"]] == [None, None]


def test_those_pressed_hardest_come_first(tmp_path):
    notebook = of_margins(tmp_path, [(0, 1, 1, m) for m in (-1, 2, -3, 1, -3)])
    side = notebook.sides["eval"]
    assert [h.pair for h in side.of_kind("broken")] == [2, 4, 0]
    assert [h.pair for h in side.of_kind("right")] == [1, 3]


def test_pairs_of_a_row(tmp_path):
    rows = [row("train", 4, pair, -1, row=pair // 3 + 1) for pair in range(9)]
    side = read_notebook(write(tmp_path, {4: rows})).sides["train"]
    assert side.by_row([side[4]]) == {("pairs.jsonl", 2): [3, 4, 5]}


def slowly(margins: list[tuple[int, float]]) -> str:
    """The definition, pair by pair."""
    signs = [(m > 0) for step, m in margins if step >= 1 and m != 0]
    if not signs or margins[-1][1] == 0 or margins[-1][0] < 1:
        return "undecided"
    if signs[-1]:
        return "right" if signs[0] else "corrected"
    if signs[0]:
        return "broken"
    return "undecided" if any(signs) else "stubborn"


MARGIN = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0])


@given(st.lists(st.dictionaries(st.integers(0, 6), MARGIN, min_size=1), min_size=1, max_size=8))
def test_kinds_are_those_of_the_slow_way(tmp_path_factory, histories):
    """Pairs measured at any steps each, in parts of any order."""
    parts: dict[int, list] = {}
    for pair, margins in enumerate(histories):
        for step, margin in margins.items():
            parts.setdefault(step, []).append(row("eval", step, pair, margin))
    notebook = read_notebook(write(tmp_path_factory.mktemp("run"), parts))
    for history, margins in zip(notebook.pairs("eval"), histories, strict=True):
        ordered = sorted(margins.items())
        assert history.kind == slowly(ordered)
        assert history.margins == tuple(ordered)
        signs = [m > 0 for step, m in ordered if step >= 1 and m != 0]
        assert history.turns == sum(a != b for a, b in itertools.pairwise(signs))


def test_no_notebook_and_an_empty_one(tmp_path):
    assert read_notebook(tmp_path) is None
    (tmp_path / PAIRS).mkdir()
    assert read_notebook(tmp_path).pairs("eval") == ()


def test_damaged_parts_are_left_out_and_named(tmp_path):
    rows = {step: [row("eval", step, 0, 1.0)] for step in (10, 20)}
    run = write(tmp_path, rows)
    whole = (run / PAIRS / "part-00000020.parquet").read_bytes()
    (run / PAIRS / "part-00000030.parquet").write_bytes(whole[: len(whole) // 2])
    (run / PAIRS / "part-00000040.parquet").write_text("not a table")
    (run / PAIRS / ".part-00000050.parquet.partial").write_bytes(whole[:9])
    notebook = read_notebook(run)
    assert notebook.pairs("eval")[0].last_step == 20
    assert len(notebook.damaged) == 2
    assert "part-00000030.parquet cannot be read" in notebook.damaged[0]


def test_a_trend_is_over_all_pairs(tmp_path):
    rows = {
        10: [row("eval", 10, p, m) for p, m in enumerate((1.0, -3.0, 0.0))]
        + [row("train", s, s, s / 10, weight=0.01 * s) for s in range(1, 11)],
        20: [row("eval", 20, 0, 2.0), row("train", 11, 11, 5.0)],
    }
    found = trends(read_notebook(write(tmp_path, rows)))
    first, second = found["eval"]
    assert (first.step, first.pairs, first.right) == (10, 3, 0.5)
    assert first.margin == pytest.approx(-2 / 3)
    assert first.chosen == pytest.approx(-20 / 3, rel=1e-5)
    assert first.rejected == 0
    trained = found["train"]
    assert [(m.step, m.pairs) for m in trained] == [(10, 9), (20, 1)]  # step 1 is before it all
    assert trained[0].spent == pytest.approx(3 / 9)  # weights 0.02, 0.03, 0.04 of nine
    assert second.margin == 2


def test_the_command_knows_the_kinds():
    assert note.KINDS == KINDS
