"""The loader: each prompt once an epoch, budget kept, and the state goes on where it stopped."""

from dataclasses import replace
from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from redpencil.data.loader import Loader, LoaderState, all_once
from redpencil.types import Example, Origin, Response


def examples_of(lengths):
    mask = np.ones(2, dtype=bool)
    return [
        Example(
            prompt_ids=np.arange(n, dtype=np.int32) + 100 * i,
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


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(20, 200))
def test_one_pass_over_all_loses_nothing_and_keeps_the_budget(lengths, budget):
    batches = list(all_once(examples_of(lengths), budget, look_ahead=16))
    seen = sorted(int(e.prompt_key) for b in batches for e in b.examples)
    assert seen == list(range(len(lengths)))
    assert all(len(b.examples) == 1 or len(b.input_ids) <= budget for b in batches)


def test_one_pass_fills_the_budget():
    lengths = np.random.default_rng(0).lognormal(5, 0.7, 3000).astype(int) + 1
    batches = list(all_once(examples_of(np.minimum(lengths, 2048)), 4096))
    filled = [len(b.input_ids) / 4096 for b in batches[:-1]]
    assert np.mean(filled) > 0.97


def test_one_pass_holds_few_trees_at_a_time():
    drawn = 0

    def examples():
        nonlocal drawn
        for example in examples_of([50] * 1000):
            drawn += 1
            yield example

    next(all_once(examples(), 4096, look_ahead=100))
    assert drawn == 100


def test_one_pass_computes_a_common_beginning_once_a_micro_batch():
    """1,000 prompts of 10 to 30 tokens after the same 200: a tenth of the micro-batches."""
    lengths = np.random.default_rng(0).integers(10, 30, 1000)
    alike = [replace(e, prompt_ids=np.append(np.arange(200), e.prompt_ids).astype(np.int32))
             for e in examples_of(lengths)]  # fmt: skip
    batches = list(all_once(alike, 2048))
    tokens = [len(b.input_ids) for b in batches]
    assert max(tokens) <= 2048
    assert sum(tokens) == sum(lengths) + 1000 + 200 * len(batches)  # of two tokens one is fed
    assert np.mean(tokens[:-1]) > 0.97 * 2048


def test_batches_are_the_same_prompts_whatever_they_share():
    apart = examples_of([12, 9, 15, 20, 8, 11, 30])
    alike = [replace(e, prompt_ids=np.append(np.arange(50), e.prompt_ids).astype(np.int32))
             for e in apart]  # fmt: skip
    drawn = [
        [keys(b) for b, _ in islice(Loader(examples=e, batch_size=3, max_tokens=90, seed=1)
                                    .iterate(LoaderState()), 5)]
        for e in (apart, alike)
    ]  # fmt: skip
    assert drawn[0] == drawn[1]
