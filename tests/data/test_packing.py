"""Packing: nothing is lost, the budget is kept, and what begins alike is computed once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from redpencil.data.packing import (
    FEWEST_SHARED,
    common_beginnings,
    cut,
    first_fit,
    micro_batch,
    pack,
    padded_cost,
    tree_cost,
    work,
)
from redpencil.data.tree import common_length, lay_tree
from zoo import example

STEM = list(range(100, 160))


def trees_of(lengths, stems=None):
    """Trees with prompts of these lengths, after a beginning if one is given."""
    return [
        lay_tree(example([*(stems[i] if stems else []), *range(1000 * i, 1000 * i + n)], [1, 2]))
        for i, n in enumerate(lengths)
    ]


beginnings = st.sampled_from([[], STEM[:5], STEM[:20], STEM, [7] * 30, [7] * 12 + STEM])
some = st.lists(st.tuples(st.integers(1, 30), beginnings), min_size=1, max_size=20)


@given(some, st.integers(1, 120))
def test_packing_loses_nothing_and_keeps_the_budget(shapes, budget):
    trees = trees_of([n for n, _ in shapes], [stem for _, stem in shapes])
    bins = pack(trees, budget)
    assert sorted(id(t) for b in bins for t in b) == sorted(id(t) for t in trees)
    for b in bins:
        assert b and (len(b) == 1 or len(micro_batch(b, tree_cost).input_ids) <= budget)


@given(some, st.integers(30, 200))
def test_what_first_fit_says_it_fills_is_no_less_than_what_is_fed(shapes, budget):
    trees = trees_of([n for n, _ in shapes], [stem for _, stem in shapes])
    for bin, slots in first_fit(trees, budget, tree_cost):
        assert len(micro_batch(bin, tree_cost).input_ids) <= slots
        if len(bin) > 1:
            assert slots <= budget


@given(st.lists(st.integers(1, 30), min_size=2, max_size=40), st.integers(30, 90))
def test_packing_spreads_the_work_over_as_few_micro_batches_as_first_fit(lengths, budget):
    trees = trees_of(lengths)
    filled, bins = first_fit(trees, budget, tree_cost), pack(trees, budget)
    assert len(bins) == len(filled)
    most = max(sum(map(work, b)) for b, _ in filled)
    assert max(sum(map(work, b)) for b in bins) <= most + max(map(work, trees))


def test_packing_balances():
    bins = pack(trees_of([80] * 6), max_tokens=5 * 81)
    assert [len(b) for b in bins] == [3, 3]  # first-fit would make them 5 and 1


@given(st.lists(st.lists(st.integers(0, 1), max_size=40), min_size=2, max_size=8))
def test_common_beginnings(prompts):
    laid = [np.array(p, dtype=np.int32) for p in prompts]
    shared = common_beginnings(laid)
    for i, one in enumerate(laid):
        for j, other in enumerate(laid):
            length = common_length([one, other])
            found = 0 if shared is None or i == j else shared[i, j]
            assert found == (length if length >= FEWEST_SHARED and i != j else 0)


def test_under_one_system_prompt_a_micro_batch_holds_it_once():
    """Eight prompts of 10 tokens after the same 60, two responses of two tokens each."""
    trees = [lay_tree(example([*STEM, *range(10 * i, 10 * i + 10)], [1, 2], [3, 4]))
             for i in range(8)]  # fmt: skip
    (batch,) = cut(trees, 60 + 8 * 12).micro_batches
    assert len(batch.input_ids) == 60 + 8 * (10 + 2)
    assert len([s for s in batch.segments if s.parent < 0]) == 1
    assert [tuple(e.prompt_ids[60:62]) for e in batch.examples] == [
        (10 * i, 10 * i + 1) for i in range(8)
    ]
    assert len(cut(trees, 60 + 8 * 12 - 1).micro_batches) == 2


def test_those_that_share_seek_each_other():
    """Two tasks with long instructions after one short system prompt: a micro-batch each."""
    system = list(range(10))
    stems = [[*system, *range(a, a + 500)] for a in (1000, 5000)]
    trees = trees_of([20] * 8, [stems[i % 2] for i in range(8)])
    bins = pack(trees, 600)
    assert sorted({t.prompt_ids[10] for t in b} for b in bins) == [{1000}, {5000}]


def test_balance_does_not_part_those_that_share():
    """Two trunks of 500 and budgets with room to spare: each is computed once."""
    stems = [[*range(a, a + 500)] for a in (1000, 5000)]
    trees = trees_of([50] * 20, [stems[i % 2] for i in range(20)])
    batch = cut(trees, 1500)
    assert sum(len(m.input_ids) for m in batch.micro_batches) == 2 * 500 + 20 * 51


def test_a_text_cut_at_every_token_is_one_path():
    """Deeper than Python's stack."""
    text = list(range(3, 1500))
    laid = [lay_tree(example(text[:end], [1, 2])) for end in range(20, 1400)]
    batch = micro_batch(laid, tree_cost)
    assert len(batch.input_ids) == 1399 + len(laid)


def test_a_dialogue_at_two_turns_is_one_path():
    """The second prompt goes on where the first one's chosen answer ends."""
    first = example([*STEM, 1], [2, 3, 4], [5, 6])
    second = example([*STEM, 1, 2, 3, 4, 8], [9, 10])
    batch = micro_batch([lay_tree(first), lay_tree(second)], tree_cost)
    assert batch.input_ids.tolist() == [*STEM, 1, 2, 3, 4, 8, 9, 5]
    assert batch.target_ids.tolist() == [2, 3, 4, 9, 10, 5, 6]
    tokens = [batch.target_ids[batch.path_token[batch.path_response == b]] for b in range(3)]
    assert [t.tolist() for t in tokens] == [[2, 3, 4], [5, 6], [9, 10]]


def test_short_beginnings_are_not_shared():
    trees = trees_of([20, 20], [STEM[: FEWEST_SHARED - 1]] * 2)
    assert len(micro_batch(trees, tree_cost).input_ids) == 2 * (FEWEST_SHARED - 1 + 20 + 1)


def test_padded_sequences_share_nothing():
    trees = trees_of([10] * 4, [STEM] * 4)
    assert [len(b) for b in pack(trees, 150, padded_cost)] == [2, 2]
    assert len(micro_batch(trees, padded_cost).input_ids) == 4 * (60 + 10 + 1)
