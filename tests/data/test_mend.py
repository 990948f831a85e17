"""Doubted labels dropped, flipped, softened: what is read again is what was meant."""

import pytest

from redpencil.data.contents import Row
from redpencil.data.mend import Doubt, mend, softened
from redpencil.data.records import records_from_rows
from redpencil.data.rows import Reader
from redpencil.data.shapes import JUDGEMENTS, SHAPES
from redpencil.errors import DataError
from redpencil.types import Origin

PAIR = {"prompt": "a", "chosen": " b", "rejected": " c", "chosen_score": 5, "rejected_score": 1}


def mended(cells, how, *doubts, columns=None):
    """Mend one row, as its data set's reader sees it."""
    columns = columns or {}
    ours = {**cells, **{o: cells[t] for o, t in columns.items() if t in cells}}
    ours = {k: v for k, v in ours.items() if k not in columns.values() or k in columns}
    shape = next(s for s in SHAPES if s.fits(frozenset(ours)))
    by = next((j for j in JUDGEMENTS if j in ours), "")
    return mend(cells, Row(Origin("f", 1), ours), Reader(shape, by), doubts, how, columns)


def comparisons(row):
    record = records_from_rows([row], "preference").records[0]
    text = record.responses
    return {(text[c.chosen], text[c.rejected]): c.probability for c in record.comparisons}


DOUBT = Doubt(0, 1, 0.2)


def test_a_pair():
    assert mended(PAIR, "drop", DOUBT) is None
    assert mended(PAIR, "flip", DOUBT) == {
        "prompt": "a", "chosen": " c", "rejected": " b", "chosen_score": 1, "rejected_score": 5
    }  # fmt: skip
    assert mended(PAIR, "soften", DOUBT) == {**PAIR, "probability": 0.2}


def test_a_probability_that_is_there_is_doubted_in_turn():
    assert softened(1.0, 0.2) == pytest.approx(0.2)
    assert softened(0.9, 0.2) == pytest.approx(0.9 * 0.2 + 0.1 * 0.8)
    assert softened(0.9, 0.5) == pytest.approx(0.5)
    row = mended({**PAIR, "probability": 0.9}, "soften", DOUBT)
    assert row["probability"] == pytest.approx(0.26)


def test_a_pair_under_other_names():
    row = {"prompt": "a", "good": " b", "bad": " c", "sure": 1.0}
    columns = {"chosen": "good", "rejected": "bad", "probability": "sure"}
    assert mended(row, "flip", DOUBT, columns=columns) == {**row, "good": " c", "bad": " b"}
    assert mended(row, "soften", DOUBT, columns=columns) == {**row, "sure": 0.2}


def test_token_ids_are_swapped_too():
    row = {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [4]}
    assert mended(row, "flip", DOUBT) == {**row, "chosen_ids": [4], "rejected_ids": [2, 3]}


def test_flipping_twice_is_the_row_as_it_was():
    assert mended(mended(PAIR, "flip", DOUBT), "flip", DOUBT) == PAIR


LISTED = {
    "prompt": "a",
    "responses": [" x", " y", " z"],
    "comparisons": [[0, 1], {"chosen": 1, "rejected": 2, "weight": 2.0}],
}
SCORED = {"prompt": "a", "responses": [" x", "", " y", " z"], "scores": [3, 9, 2, 1], "id": 7}


def test_listed_comparisons():
    one, both = [Doubt(1, 2, 0.25)], [Doubt(1, 2, 0.25), Doubt(0, 1, 0.1)]
    assert mended(LISTED, "drop", *one)["comparisons"] == [[0, 1]]
    assert mended(LISTED, "drop", *both) is None
    flipped = mended(LISTED, "flip", *both)["comparisons"]
    assert flipped == [[1, 0], {"chosen": 2, "rejected": 1, "weight": 2.0}]
    soft = mended(LISTED, "soften", *one)["comparisons"]
    assert soft[1] == {"chosen": 1, "rejected": 2, "weight": 2.0, "probability": 0.25}


def test_scores_are_written_out_as_comparisons_and_stay():
    """The empty response has no place among the usable ones: z is their third, the row's fourth."""
    doubt = Doubt(0, 2, 0.25)
    flipped = mended(SCORED, "flip", doubt)
    assert flipped["scores"] == SCORED["scores"] and flipped["id"] == 7
    assert comparisons(flipped) == {(" z", " x"): 1.0, (" x", " y"): 1.0, (" y", " z"): 1.0}
    soft = comparisons(mended(SCORED, "soften", doubt))
    assert soft == {(" x", " z"): 0.25, (" x", " y"): 1.0, (" y", " z"): 1.0}
    assert comparisons(mended(SCORED, "drop", doubt)) == {(" x", " y"): 1.0, (" y", " z"): 1.0}


def test_a_ranking_too():
    row = {"prompt": "a", "responses": [" x", " y"], "ranking": [2, 1]}
    assert comparisons(mended(row, "flip", Doubt(1, 0, 0.1))) == {(" x", " y"): 1.0}


def test_what_cannot_be_mended_is_said():
    with pytest.raises(DataError, match="which of its two labels"):
        mended({"prompt": "a", "completion": " b", "label": True}, "drop", DOUBT)
    row = {"prompt": "a", "answers": {"good": " b", "bad": " c"}}
    columns = {"chosen": "answers.good", "rejected": "answers.bad"}
    ours = Row(Origin("f", 1), {"prompt": "a", "chosen": " b", "rejected": " c"})
    reader = Reader(next(s for s in SHAPES if s.fits(frozenset(ours.cells))), "")
    with pytest.raises(DataError, match="lie inside other columns"):
        mend(row, ours, reader, [DOUBT], "flip", columns)
    with pytest.raises(DataError, match="lies inside another"):
        mend(row, ours, reader, [DOUBT], "soften", {"probability": "a.b"})
    assert mend(row, ours, reader, [DOUBT], "drop", columns) is None
