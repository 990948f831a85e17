"""The split: by prompt, by seed, whatever the order of the rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redpencil.data.split import fraction_of, prompt_key, split_by_prompt
from redpencil.types import Example


def example(key):
    return Example(
        prompt_ids=np.zeros(1, np.int32), responses=(), comparisons=(), prompt_key=str(key)
    )


def keys(side):
    return {e.prompt_key for e in side}


@given(
    st.lists(st.integers(0, 30)),
    st.floats(0, 1),
    st.integers(0, 5),
    st.randoms(),
    st.integers(1, 9),
)
def test_no_prompt_on_both_sides(rows, fraction, seed, random, at_most):
    train, held = split_by_prompt(
        [example(r) for r in rows], fraction=fraction, seed=seed, at_most=at_most
    )
    assert not keys(train) & keys(held)
    assert len(train) + len(held) == len(rows)
    prompts = len(set(rows))
    if prompts < 2 or fraction == 0:
        assert held == []
    else:
        wanted = min(round(fraction * prompts), at_most, prompts - 1)
        assert len(keys(held)) == max(1, wanted)
        assert keys(train)
    random.shuffle(rows)
    again = split_by_prompt(
        [example(r) for r in rows], fraction=fraction, seed=seed, at_most=at_most
    )
    assert (keys(again[0]), keys(again[1])) == (keys(train), keys(held))


def test_the_seed_matters_and_the_order_is_kept():
    rows = [example(i) for i in range(100)]
    train, held = split_by_prompt(rows, fraction=0.2, seed=0)
    assert len(held) == 20
    assert [int(e.prompt_key) for e in train] == sorted(int(e.prompt_key) for e in train)
    assert keys(split_by_prompt(rows, fraction=0.2, seed=1)[1]) != keys(held)


@pytest.mark.parametrize("other", ["hi ", (), ({"role": "system", "content": "hi"},)])
def test_prompt_keys(other):
    turn = ({"content": "hi", "role": "user"},)
    assert prompt_key("hi") == prompt_key(turn) == "311ef38cd1e0409b3b6bbb8c678fb910"
    assert prompt_key(other) != prompt_key("hi") != prompt_key("hi", [{"name": "f"}])
    assert prompt_key(np.array([1, 2])) == prompt_key(np.array([1, 2], dtype=np.int32))
    assert prompt_key("\ud83d") != prompt_key("")


@pytest.mark.parametrize(
    ("asked", "pairs", "fraction"),
    [
        (None, 5, 0.2),
        (None, 221, 0.2),
        (None, 500, 0.2),
        (None, 1000, 0.1),
        (None, 2000, 0.05),
        (None, 100_000, 0.05),
        (0.01, 221, 0.01),
        (0.0, 221, 0.0),
    ],
)
def test_about_a_hundred_pairs_are_held_out(asked, pairs, fraction):
    assert fraction_of(asked, pairs) == fraction
