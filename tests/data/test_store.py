"""Examples on disk are the examples that were put there, joined and numbered as lists are."""

import errno

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redpencil.data.group import MAX_GROUPED_RESPONSES, group_by_prompt, number_responses
from redpencil.data.split import held_out_keys, split_by_prompt
from redpencil.data.store import Examples, Store
from redpencil.errors import DataError
from redpencil.types import Comparison, Example, Origin, Response

ids = st.lists(st.integers(0, 2**31 - 1), max_size=6).map(lambda i: np.array(i, dtype=np.int32))
origins = st.builds(Origin, st.sampled_from(["a.jsonl", "b.jsonl", "한글.csv"]), st.integers(1, 9))
reals = st.floats(0, 1e6)


@st.composite
def responses(draw):
    tokens = draw(ids)
    scored = np.array([draw(st.booleans()) for _ in tokens], dtype=bool)
    return Response(ids=tokens, scored=scored, origin=draw(origins), weight=draw(reals))


@st.composite
def examples(draw):
    said = tuple(draw(st.lists(responses(), min_size=1, max_size=5)))
    place = st.integers(0, len(said) - 1)
    compared = st.builds(
        Comparison,
        chosen=place,
        rejected=place,
        weight=reals,
        margin=reals,
        probability=st.floats(0, 1),
        origin=st.none() | origins,
    )
    prompt = draw(st.sampled_from([(), (1,), (1, 2), (3,)]))
    key = draw(st.sampled_from(["0" * 32, "ff" * 15 + "00", "12" * 16]))
    return Example(
        prompt_ids=np.array(prompt, dtype=np.int32),
        responses=said,
        comparisons=tuple(draw(st.lists(compared, max_size=3))),
        prompt_key=key,
    )


def same(one: Example, other: Example) -> bool:
    def plain(e: Example) -> object:
        said = [(r.ids.tolist(), r.scored.tolist(), r.origin, r.weight) for r in e.responses]
        return e.prompt_ids.tolist(), said, e.comparisons, e.prompt_key, e.response_base

    assert one.prompt_ids.dtype == other.prompt_ids.dtype == np.int32
    return plain(one) == plain(other)


@given(st.lists(examples(), max_size=12), st.booleans(), st.randoms())
def test_a_store_gives_back_what_lists_hold(made, join, random):
    store = Store(made)
    rows = sorted(random.sample(range(len(made)), k=random.randint(0, len(made))))
    kept = [made[i] for i in rows]
    wanted = group_by_prompt(kept) if join else number_responses(kept)
    read = Examples(store, np.array(rows, dtype=np.int64), join_prompts=join)
    assert len(read) == len(wanted)
    assert all(same(a, b) for a, b in zip(read, wanted, strict=True))
    assert all(same(a, b) for a, b in zip(read[::-2], wanted[::-2], strict=True))
    assert read.prompt_count == len({e.prompt_key for e in kept})
    assert read.response_count == sum(len(e.responses) for e in kept)
    assert read.pair_count == sum(len(e.comparisons) for e in kept)


def test_indices_are_those_of_a_sequence():
    one = Response(ids=np.array([1], np.int32), scored=np.array([True]), origin=Origin("f", 1))
    example = Example(
        prompt_ids=np.array([7], np.int32), responses=(one,), comparisons=(), prompt_key="ab" * 16
    )
    read = Examples.of([example] * 3)
    assert [e.response_base for e in read] == [0, 1, 2]
    assert read[-1].response_base == 2
    with pytest.raises(IndexError):
        read[3]
    joined = Examples(Store([example] * 40), np.arange(40), join_prompts=True)
    assert [len(e.responses) for e in joined] == [MAX_GROUPED_RESPONSES] * 2 + [8]


class Full:
    """A file on a disk without room."""

    def __init__(self, takes):
        self.takes = takes

    def seek(self, at):
        return at

    def write(self, content):
        if self.takes is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.takes


@pytest.mark.parametrize("takes", [None, 3])
def test_a_full_disk_is_said_in_one_sentence(takes):
    store = Store()
    store._file = Full(takes)
    example = Example(
        prompt_ids=np.array([7], np.int32), responses=(), comparisons=(), prompt_key="ab" * 16
    )
    with pytest.raises(DataError, match=r"cannot be kept in .* name a larger folder by TMPDIR"):
        store.append(example)
    assert len(store) == 0


@given(st.sets(st.integers(0, 50)), st.floats(0, 1), st.integers(0, 3), st.integers(1, 5))
def test_keys_alone_split_as_examples_do(numbers, fraction, seed, at_most):
    keys = {f"{n:032x}" for n in numbers}
    made = [
        Example(prompt_ids=np.zeros(1, np.int32), responses=(), comparisons=(), prompt_key=k)
        for k in keys
    ]
    _, held_out = split_by_prompt(made, fraction=fraction, seed=seed, at_most=at_most)
    chosen = held_out_keys(iter(keys), len(keys), fraction=fraction, seed=seed, at_most=at_most)
    assert chosen == {e.prompt_key for e in held_out}
