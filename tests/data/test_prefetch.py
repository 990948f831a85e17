"""Prefetching changes neither items nor order, raises errors in place, and leaves no thread."""

import threading
from itertools import count, islice

import numpy as np
import pytest

from redpencil.data.loader import Loader, LoaderState
from redpencil.data.prefetch import DEPTH, Prefetched
from zoo import random_examples


def test_the_same_items_in_the_same_order_to_the_end():
    with Prefetched(iter(range(7))) as items:
        assert list(items) == list(range(7))
        assert list(items) == []


def test_an_error_comes_where_its_item_would_have_come():
    def items():
        yield 1
        yield 2
        raise ValueError("the third")

    with Prefetched(items()) as ahead:
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(ValueError, match="the third"):
            next(ahead)


def test_it_runs_ahead_by_a_few_items_and_no_further():
    made = []
    third = threading.Event()

    def items():
        for i in count():
            made.append(i)
            if i == DEPTH:
                third.set()
            yield i

    with Prefetched(items()) as ahead:
        assert third.wait(timeout=600)
        assert made == list(range(DEPTH + 1))
        assert next(ahead) == 0


def test_closing_ends_the_thread():
    before = threading.active_count()
    with Prefetched(count()) as ahead:
        assert next(ahead) == 0
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_what_is_applied_in_the_thread_reaches_the_items():
    with Prefetched(iter([1, 2]), finish=lambda i: i * 10) as ahead:
        assert list(ahead) == [10, 20]


def test_a_loader_gives_the_same_stream_with_its_states():
    loader = Loader(examples=random_examples(7, 2), batch_size=3, max_tokens=40, seed=1)
    plain = list(islice(loader.iterate(LoaderState()), 6))
    with Prefetched(loader.iterate(LoaderState())) as ahead:
        fetched = list(islice(ahead, 6))
    for (batch, state), (other, other_state) in zip(plain, fetched, strict=True):
        assert state == other_state
        for one, two in zip(batch.micro_batches, other.micro_batches, strict=True):
            np.testing.assert_array_equal(one.input_ids, two.input_ids)
