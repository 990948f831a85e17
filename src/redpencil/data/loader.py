"""Batches: prompts drawn without replacement, cut into micro-batches by token budget.

`batch_size` counts prompts and is a statistical choice; `max_tokens` counts the distinct tokens of
a micro-batch and is a hardware choice. Losses are divided by the count of the whole batch, so the
second never changes a result beyond rounding. Every batch comes with the state from which the
iterator goes on after it: resume is part of the stream, not added to it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from redpencil.data.packing import Cost, cut, first_fit, micro_batch, tree_cost
from redpencil.data.tree import Tree, lay_tree
from redpencil.types import Batch, Example, TreeBatch

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
                batch = cut(trees, self.max_tokens, self.cost)
                at_end = drawn == len(order)
                yield batch, LoaderState(epoch + 1, 0) if at_end else LoaderState(epoch, drawn)
            epoch, drawn = epoch + 1, 0


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """(count,) the permutation of an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


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
            bins = first_fit(window, max_tokens, cost)
            bins.sort(key=lambda bin: bin[1], reverse=True)
            full = [b for b in bins if b[1] >= FULL * max_tokens] or bins[:1]
            yield from (micro_batch(trees, cost) for trees, _ in full)
            window = [tree for trees, _ in bins[len(full) :] for tree in trees]
    yield from (micro_batch(trees, cost) for trees, _ in first_fit(window, max_tokens, cost))
