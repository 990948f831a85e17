"""Batches: prompts drawn without replacement, packed into micro-batches by token budget.

`batch_size` counts prompts and is a statistical choice; `max_tokens` counts the distinct tokens of
a micro-batch and is a hardware choice. Losses are divided by the count of the whole batch, so the
second never changes a result beyond rounding. Every batch comes with the state from which the
iterator goes on after it: resume is part of the stream, not added to it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from redpencil.data.tree import Tree, join_trees, lay_tree
from redpencil.types import Batch, Example, TreeBatch

Cost = Callable[[Tree], int]
"""Token slots a tree takes of a micro-batch's budget."""


def tree_cost(tree: Tree) -> int:
    return tree.tokens


def padded_cost(tree: Tree) -> int:
    return tree.padded_tokens


def work(tree: Tree) -> float:
    """How long a tree takes, in tokens: attention costs a query-key pair what the layers' products
    cost a token, divided by `PAIRS_PER_TOKEN`."""
    return tree.tokens + tree.attention_area / PAIRS_PER_TOKEN


PAIRS_PER_TOKEN = 6 * 1024
"""A layer of width D has about 12 D^2 weights, and so 24 D^2 operations a token and 4 D a pair: six
times the width, here that of a small model. It steers balance only."""

LOOK_AHEAD = 512
FULL = 0.98
"""A micro-batch this full leaves the window; the trees of the others wait for better company."""


@dataclass(frozen=True, slots=True)
class LoaderState:
    """Where the stream of batches goes on: epoch (from 0) and prompts of it already drawn.

    used: steps made with a batch that is to be used again (RL).
    """

    epoch: int = 0
    drawn: int = 0
    used: int = 0


class BatchStream(Protocol):
    """What the engine draws batches from.

    examples: an epoch of them. ahead: whether batches may be laid before the steps on those before
    them are made.
    """

    @property
    def examples(self) -> Sequence[object]: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def ahead(self) -> bool: ...

    def iterate(self, state: LoaderState) -> Iterator[tuple[Batch, LoaderState]]:
        """`(batch, state after it)` from a state on, without end."""
        ...

    def with_budget(self, max_tokens: int) -> Self:
        """The same stream, cut into other micro-batches."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Iterates over `(batch, state after it)`, epoch after epoch, without end.

    Each epoch is a permutation seeded by (seed, epoch). The last batch of an epoch holds what is
    left and may be smaller. feed_last: trees are laid with the last tokens of their responses.
    """

    examples: Sequence[Example]
    batch_size: int
    max_tokens: int
    seed: int
    cost: Cost = tree_cost
    shuffle: bool = True
    ahead: bool = True
    feed_last: bool = False

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def with_budget(self, max_tokens: int) -> Self:
        return replace(self, max_tokens=max_tokens)

    def iterate(self, state: LoaderState) -> Iterator[tuple[Batch, LoaderState]]:
        assert self.examples, "a loader needs at least one example"
        epoch, drawn = state.epoch, state.drawn
        while True:
            order = (
                epoch_order(len(self.examples), self.seed, epoch)
                if self.shuffle
                else np.arange(len(self.examples))
            )
            while drawn < len(order):
                chosen = order[drawn : drawn + self.batch_size]
                drawn += len(chosen)
                trees = [lay_tree(self.examples[i], feed_last=self.feed_last) for i in chosen]
                batch = Batch(tuple(join_trees(t) for t in pack(trees, self.max_tokens, self.cost)))
                at_end = drawn == len(order)
                yield batch, LoaderState(epoch + 1, 0) if at_end else LoaderState(epoch, drawn)
            epoch, drawn = epoch + 1, 0


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """(count,) the permutation of an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def pack(trees: Sequence[Tree], max_tokens: int, cost: Cost = tree_cost) -> list[list[Tree]]:
    """Cut a batch into few micro-batches of at most `max_tokens`, about equally expensive.

    How many there are is found by first-fit decreasing; over that many the trees are spread by
    their work. A tree larger than the budget is not cut: it makes a micro-batch of its own.
    """
    filled = _first_fit(trees, max_tokens, cost)
    return _balanced(trees, len(filled), max_tokens, cost) or filled


def _first_fit(trees: Sequence[Tree], max_tokens: int, cost: Cost) -> list[list[Tree]]:
    """First-fit decreasing: at most 11/9 of the fewest micro-batches, nearly always the fewest."""
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


def _balanced(
    trees: Sequence[Tree], count: int, max_tokens: int, cost: Cost
) -> list[list[Tree]] | None:
    """The most expensive tree left goes where least work is, if there is room; None if it fails."""
    bins: list[list[Tree]] = [[] for _ in range(count)]
    room, load = [max_tokens] * count, [0.0] * count
    for tree in sorted(trees, key=work, reverse=True):
        size = cost(tree)
        free = [i for i in range(count) if room[i] >= size or not bins[i]]
        if not free:
            return None
        at = min(free, key=load.__getitem__)
        bins[at].append(tree)
        room[at] -= size
        load[at] += work(tree)
    return bins


def all_once(
    examples: Iterable[Example],
    max_tokens: int,
    cost: Cost = tree_cost,
    *,
    look_ahead: int = LOOK_AHEAD,
    feed_last: bool = False,
) -> Iterator[TreeBatch]:
    """Micro-batches over all examples once, in no particular order: evaluation, the reference.

    Filled by first-fit over a window of `look_ahead` examples, which are laid as they come.
    """
    window: list[Tree] = []
    for example in examples:
        window.append(lay_tree(example, feed_last=feed_last))
        if len(window) == look_ahead:
            bins = _first_fit(window, max_tokens, cost)
            bins.sort(key=lambda trees: sum(map(cost, trees)), reverse=True)
            full = [b for b in bins if sum(map(cost, b)) >= FULL * max_tokens] or bins[:1]
            yield from map(join_trees, full)
            window = [tree for b in bins[len(full) :] for tree in b]
    yield from map(join_trees, _first_fit(window, max_tokens, cost))
