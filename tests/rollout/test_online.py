"""The stream of RL: how prompts are drawn, how often rollouts are used, and what a state means."""

import numpy as np
import pytest

from redpencil.data.loader import LoaderState
from redpencil.data.prompts import Prompt
from redpencil.rollout.online import OnlineLoader
from redpencil.rollout.sample import as_examples
from redpencil.types import Origin


def prompts(count):
    return [
        Prompt(
            ids=np.array([1, 2, number], dtype=np.int32),
            content=str(number),
            prompt_key=str(number),
            row={},
            origin=Origin("prompts.jsonl", number),
        )
        for number in range(count)
    ]


def stream(rolled, **changed):
    """Every prompt is answered by two completions that tell the seed."""

    def roll(chosen, seed):
        rolled.append(([p.content for p in chosen], seed))
        completions = [[np.array([i, seed % 97], dtype=np.int32) for i in (5, 6)] for _ in chosen]
        return as_examples([p.ids for p in chosen], completions)

    options = {"batch_size": 3, "passes": 2, "max_tokens": 100, "seed": 4, **changed}
    return OnlineLoader(examples=prompts(7), roll=roll, **options)


def take(stream, state, count):
    batches = stream.iterate(state)
    return [next(batches) for _ in range(count)]


def drawn(batch):
    return sorted(int(e.prompt_ids[2]) for e in batch.examples)


def test_each_batch_of_rollouts_is_used_for_all_its_passes():
    rolled = []
    found = take(stream(rolled), LoaderState(), 8)
    assert [(s.epoch, s.drawn, s.used) for _, s in found] == [
        (0, 0, 1), (0, 3, 0), (0, 3, 1), (0, 6, 0), (0, 6, 1), (1, 0, 0), (1, 0, 1), (1, 3, 0)
    ]  # fmt: skip
    assert len(rolled) == 4
    assert found[0][0] is found[1][0]
    assert sorted(sum((names for names, _ in rolled[:3]), [])) == [str(i) for i in range(7)]
    assert len({seed for _, seed in rolled}) == 4


def test_a_state_goes_on_where_it_stands():
    whole = take(stream([]), LoaderState(), 12)
    for at in (1, 3, 5):  # after the last pass of a batch of rollouts
        again = take(stream([]), whole[at][1], 12 - at - 1)
        for (batch, state), (expected, after) in zip(again, whole[at + 1 :], strict=True):
            assert (drawn(batch), state) == (drawn(expected), after)
            for micro, other in zip(batch.micro_batches, expected.micro_batches, strict=True):
                assert micro.input_ids.equal(other.input_ids)


def test_a_smaller_budget_cuts_the_same_rollouts():
    """Memory may run out in the midst of a batch's passes: nothing is drawn anew."""
    rolled = []
    large = stream(rolled)
    first, _ = take(large, LoaderState(), 1)[0]
    again, state = take(large.with_budget(5), LoaderState(used=1), 1)[0]
    assert len(rolled) == 1
    assert (drawn(again), state) == (drawn(first), LoaderState(0, 3))
    assert (len(first.micro_batches), len(again.micro_batches)) == (1, 3)


@pytest.mark.parametrize("passes", [1, 3])
def test_seeds_differ_by_seed_epoch_and_place(passes):
    rolled, other = [], []
    take(stream(rolled, passes=passes), LoaderState(), 12 * passes)
    take(stream(other, passes=passes, seed=5), LoaderState(), 12 * passes)
    assert len({seed for _, seed in rolled + other}) == 24
