"""Tensors of a batch side by side in one piece of memory, moved by one copy."""

import pytest
import torch

from redpencil import movable
from redpencil.data.tree import lay_trees
from redpencil.types import Batch
from zoo import random_examples


@pytest.fixture
def page_locked(monkeypatch):
    """Plain memory that says it is page-locked: only CUDA has such, and only there it matters."""
    made = []

    def plain(size):
        made.append(torch.empty(size, dtype=torch.uint8))
        return made[-1]

    monkeypatch.setattr(movable, "page_locked", plain)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)
    return made


@pytest.fixture
def copies(monkeypatch):
    """Sizes of what is moved between devices."""
    moved = []
    to = torch.Tensor.to

    def spy(self, *args, **kwargs):
        moved.append((self.nbytes, kwargs))
        return to(self, *args, **kwargs).clone()

    monkeypatch.setattr(torch.Tensor, "to", spy)
    return moved


def same(one, other):
    mine, theirs = list(one._tensors()), list(other._tensors())
    assert len(mine) == len(theirs) > 10
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("feed_last", [False, True])
def test_one_copy_moves_a_micro_batch(page_locked, copies, feed_last):
    laid = lay_trees(random_examples(0, 3, prompts=4), feed_last=feed_last)
    (pinned,) = Batch((laid,)).pinned().micro_batches
    same(pinned, laid)
    moved = pinned.to("cpu")
    same(moved, laid)
    (buffer,) = page_locked
    assert copies == [(buffer.nbytes, {"non_blocking": True})]
    assert buffer.nbytes < 2 * sum(t.nbytes for t in laid._tensors()) + 64 * 20
    assert all(t.data_ptr() % 64 == buffer.data_ptr() % 64 for t in pinned._tensors())
    buffer.zero_()
    same(moved, laid)
    assert moved.segments is laid.segments and moved.examples is laid.examples
    assert (moved.predicting.host == laid.predicting.host).all()


def test_without_it_each_tensor_moves():
    laid = lay_trees(random_examples(0, 3, prompts=4))
    same(laid.to("cpu"), laid)


def test_empty_tensors_keep_their_shape(page_locked):
    """No comparisons: the vectors of pairs are empty."""
    laid = lay_trees(random_examples(0, 1, prompts=2))
    assert len(laid.pairs.chosen) == 0
    same(laid.pinned().to("cpu"), laid)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA has page-locked memory")
def test_memory_that_is_page_locked():
    """Filled anew as soon as it is free: what was queued before has arrived."""
    batches = [lay_trees(random_examples(seed, 3, prompts=4)) for seed in range(20)]
    moved = [batch.pinned().to("cuda") for batch in batches]
    for one, laid in zip(moved, batches, strict=True):
        same(one.to("cpu"), laid)
