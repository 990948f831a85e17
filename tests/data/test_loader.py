"""The loader: each prompt once an epoch, budget kept, and the state goes on where it stopped."""

from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from redpencil.data.loader import Loader, LoaderState, in_order, pack
from redpencil.data.tree import lay_tree
from redpencil.types import Example, Origin, Response


def examples_of(lengths):
    mask = np.ones(2, dtype=bool)
    return [
        Example(
            prompt_ids=np.arange(n, dtype=np.int32),
            responses=(
                Response(ids=np.array([1, 2], np.int32), scored=mask, origin=Origin("m", n)),
            ),
            comparisons=(),
            prompt_key=str(i),
        )
        for i, n in enumerate(lengths)
    ]


def keys(batch):
    return sorted(int(e.prompt_key) for e in batch.examples)


def test_an_epoch_holds_every_prompt_once_and_epochs_differ():
    loader = Loader(examples=examples_of(range(1, 8)), batch_size=3, max_tokens=100, seed=0)
    assert loader.batches_per_epoch == 3
    drawn = [keys(b) for b, _ in islice(loader.iterate(LoaderState()), 6)]
    assert sorted(sum(drawn[:3], [])) == sorted(sum(drawn[3:], [])) == list(range(7))
    assert drawn[:3] != drawn[3:]
    assert [len(d) for d in drawn] == [3, 3, 1] * 2


def test_the_state_goes_on_exactly_where_the_stream_stopped():
    loader = Loader(examples=examples_of(range(1, 8)), batch_size=3, max_tokens=5, seed=3)
    whole = list(islice(loader.iterate(LoaderState()), 9))
    for at in range(1, 8):
        rest = islice(loader.iterate(whole[at - 1][1]), 9 - at)
        assert [keys(b) for b, _ in rest] == [keys(b) for b, _ in whole[at:]]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 40))
def test_packing_loses_nothing_and_keeps_the_budget(lengths, budget):
    trees = [lay_tree(e) for e in examples_of(lengths)]
    bins = pack(trees, budget)
    assert sorted(id(t) for b in bins for t in b) == sorted(id(t) for t in trees)
    for b in bins:
        assert b and (len(b) == 1 or sum(t.tokens for t in b) <= budget)


def test_in_order_keeps_the_order():
    batches = list(in_order(examples_of([5, 5, 5, 5]), max_tokens=13))
    assert [keys(b) for b in batches] == [[0, 1], [2, 3]]
