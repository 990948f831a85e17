"""Duplicates, contradictions, circles; and what only resembles them."""

import random

import pytest

from patients import diagnose, found, pair, rows_of, write
from redpencil.doctor.rows.circles import edges_on_circles


def swapped(number, **cells):
    row = pair(number)
    return row | {"chosen": row["rejected"], "rejected": row["chosen"]} | cells


def vote(prompt, chosen, rejected, **cells):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | cells


def keys(tmp_path, rows):
    return found(diagnose(write(tmp_path / "a.jsonl", rows)))


def test_a_repeated_row(tmp_path):
    seen = keys(tmp_path, [pair(1), pair(2), pair(1, weight=2.0), pair(3), pair(1), pair(2)])
    assert list(seen) == ["duplicate"]
    assert rows_of(seen["duplicate"]) == [3, 5, 6] and seen["duplicate"].count == 3
    assert seen["duplicate"].example == "row 3 is row 1 again"


def test_the_same_answer_against_others_is_no_duplicate(tmp_path):
    assert not keys(tmp_path, [pair(1), pair(1, rejected="else"), pair(1, prompt="Other?")])


def test_a_text_and_its_message_are_the_same_answer(tmp_path):
    row = pair(1)
    talk = row | {"chosen": [{"role": "assistant", "content": row["chosen"]}]}
    assert rows_of(keys(tmp_path, [row, talk])["duplicate"]) == [2]


def test_both_ways(tmp_path):
    seen = keys(tmp_path, [pair(1), pair(2), swapped(1), pair(3)])
    assert list(seen) == ["both-ways"]
    assert rows_of(seen["both-ways"]) == [1, 3] and seen["both-ways"].severity == "error"
    assert seen["both-ways"].example == "row 1 and row 3"


def test_a_probability_below_one_half_turns_a_row_round(tmp_path):
    assert not keys(tmp_path, [pair(1, probability=0.9), swapped(1, probability=0.2)])
    assert "both-ways" in keys(tmp_path, [pair(1), pair(1, probability=0.2)])
    assert not keys(tmp_path, [pair(1), swapped(1, probability=0.5)])


def test_swapped_under_another_prompt_is_no_contradiction(tmp_path):
    assert not keys(tmp_path, [pair(1), swapped(1, prompt="Other?")])


def test_a_circle_of_three_rows(tmp_path):
    rows = [vote("p", "a", "b"), vote("q", "a", "b"), vote("p", "b", "c"), vote("p", "c", "a")]
    seen = keys(tmp_path, rows)
    assert list(seen) == ["cycle"] and rows_of(seen["cycle"]) == [1, 3, 4]
    assert "of 1 prompt." in seen["cycle"].text


def test_an_order_is_no_circle(tmp_path):
    rows = [vote("p", "a", "b"), vote("p", "b", "c"), vote("p", "a", "c"), vote("q", "c", "a")]
    assert not keys(tmp_path, rows)


def test_a_circle_within_one_row(tmp_path):
    row = {"prompt": "p", "responses": ["a", "b", "c"], "comparisons": [[0, 1], [1, 2], [2, 0]]}
    assert rows_of(keys(tmp_path, [pair_of_three(), row])["cycle"]) == [2]


def pair_of_three():
    return {"prompt": "q", "responses": ["a", "b", "c"], "comparisons": [[0, 1], [1, 2], [0, 2]]}


def test_labels(tmp_path):
    rows = [
        {"prompt": "p", "completion": "x", "label": True},
        {"prompt": "p", "completion": "y", "label": False},
        {"prompt": "p", "completion": "x", "label": True},
        {"prompt": "q", "completion": "x", "label": True},
        {"prompt": "q", "completion": "x", "label": False},
        {"prompt": "q", "completion": "y", "label": False},
    ]
    seen = keys(tmp_path, rows)
    assert rows_of(seen["duplicate"]) == [3]
    assert rows_of(seen["both-ways"]) == [4, 5]
    assert rows_of(seen["unpaired-label"]) == [5]  # the true one says the same


@pytest.mark.parametrize("seed", range(5))
def test_circles_as_by_looking(seed):
    """Against reachability by matrix powers on random graphs."""
    drawn = random.Random(seed)
    edges = {(drawn.randrange(9), drawn.randrange(9)) for _ in range(12)}
    edges = {(a, b) for a, b in edges if a != b}
    reach = [[(a, b) in edges for b in range(9)] for a in range(9)]
    for k in range(9):
        for a in range(9):
            for b in range(9):
                reach[a][b] = reach[a][b] or (reach[a][k] and reach[k][b])
    assert edges_on_circles(edges) == {(a, b) for a, b in edges if reach[b][a]}


def test_a_long_order_is_taken_off_at_once():
    assert edges_on_circles({(n, n + 1) for n in range(200_000)}) == set()
