"""Batches: prompts drawn without replacement, packed into micro-batches by token budget.

`batch_size` counts prompts and is a statistical choice; `max_tokens` counts the distinct tokens of
a micro-batch and is a hardware choice. Losses are divided by the count of the whole batch, so the
second never changes a result beyond rounding. Every batch comes with the state from which the
iterator goes on after it: resume is part of the stream, not added to it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from redpencil.data.tree import Tree, join_trees, lay_tree
from redpencil.types import Batch, Example, TreeBatch

Cost = Callable[[Tree], int]
"""Token slots a tree takes of a micro-batch's budget."""


def tree_cost(tree: Tree) -> int:
    return tree.tokens


def padded_cost(tree: Tree) -> int:
    return tree.padded_tokens


@dataclass(frozen=True, slots=True)
class LoaderState:
    """Where the stream of batches goes on: epoch (from 0) and prompts of it already drawn."""

    epoch: int = 0
    drawn: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Iterates over `(batch, state after it)`, epoch after epoch, without end.

    Each epoch is a permutation seeded by (seed, epoch). The last batch of an epoch holds what is
    left and may be smaller.
    """

    examples: Sequence[Example]
    batch_size: int
    max_tokens: int
    seed: int
    cost: Cost = tree_cost
    shuffle: bool = True

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def iterate(self, state: LoaderState) -> Iterator[tuple[Batch, LoaderState]]:
        assert self.examples, "a loader needs at least one example"
        epoch, drawn = state.epoch, state.drawn
        while True:
            order = self._order(epoch)
            while drawn < len(order):
                chosen = order[drawn : drawn + self.batch_size]
                drawn += len(chosen)
                trees = [lay_tree(self.examples[i]) for i in chosen]
                batch = Batch(tuple(join_trees(t) for t in pack(trees, self.max_tokens, self.cost)))
                at_end = drawn == len(order)
                yield batch, LoaderState(epoch + 1, 0) if at_end else LoaderState(epoch, drawn)
            epoch, drawn = epoch + 1, 0

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.examples))
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.examples))


def pack(trees: Sequence[Tree], max_tokens: int, cost: Cost = tree_cost) -> list[list[Tree]]:
    """Fill micro-batches up to `max_tokens` by first-fit decreasing; none is empty.

    A tree larger than the budget is not cut: it makes a micro-batch of its own.
    """
    bins: list[list[Tree]] = []
    room: list[int] = []
    for tree in sorted(trees, key=cost, reverse=True):
        size = cost(tree)
        at = next((i for i, free in enumerate(room) if free >= size), None)
        if at is None:
            bins.append([tree])
            room.append(max_tokens - size)
        else:
            bins[at].append(tree)
            room[at] -= size
    return bins


def in_order(
    examples: Iterable[Example], max_tokens: int, cost: Cost = tree_cost
) -> Iterator[TreeBatch]:
    """Micro-batches over all examples once, in the given order: evaluation, reference pass."""
    pending: list[Tree] = []
    size = 0
    for example in examples:
        tree = lay_tree(example)
        if pending and size + cost(tree) > max_tokens:
            yield join_trees(pending)
            pending, size = [], 0
        pending.append(tree)
        size += cost(tree)
    if pending:
        yield join_trees(pending)
