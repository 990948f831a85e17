"""Trees into micro-batches by token budget, those that begin alike together.

`max_tokens` counts the distinct tokens of a micro-batch. Prompts under one system prompt, with the
same examples before the question, or of one dialogue at several turns begin with the same tokens:
in one micro-batch these are computed once, as a prompt is for its responses. Trees that share a
beginning therefore seek each other, and only what is new of a tree counts against the budget.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from redpencil.data.tree import Tree, common_length, join_trees, lay_tree
from redpencil.types import Batch, TreeBatch

Cost = Callable[[Tree], int]
"""Token slots a tree takes of a micro-batch's budget. Trees share under `tree_cost` only."""


def tree_cost(tree: Tree) -> int:
    return tree.tokens


def padded_cost(tree: Tree) -> int:
    """Padded sequences share nothing, beginnings neither."""
    return tree.padded_tokens


def work(tree: Tree) -> float:
    """How long a tree takes, in tokens: attention costs a query-key pair what the layers' products
    cost a token, divided by `PAIRS_PER_TOKEN`."""
    return tree.tokens + tree.attention_area / PAIRS_PER_TOKEN


PAIRS_PER_TOKEN = 6 * 1024
"""A layer of width D has about 12 D^2 weights, and so 24 D^2 operations a token and 4 D a pair: six
times the width, here that of a small model. It steers balance only."""

FEWEST_SHARED = 16
"""A shorter common beginning is not shared: attention pays a little for each branch. Measured on a
CPU (docs/LOG.md), not yet on a GPU."""


def micro_batch(trees: Sequence[Tree], cost: Cost) -> TreeBatch:
    """One micro-batch of these trees; where trees are what counts, those that begin alike are laid
    anew as one."""
    if cost is not tree_cost:
        return join_trees(trees)
    return join_trees([_one_tree([trees[at] for at in family]) for family in _families(trees)])


def _families(trees: Sequence[Tree]) -> list[list[int]]:
    """Places of trees whose prompts begin alike, those of no other by themselves."""
    found: dict[bytes | int, list[int]] = {}
    for number, tree in enumerate(trees):
        begins = tree.prompt_ids[:FEWEST_SHARED]
        key = begins.tobytes() if len(begins) == FEWEST_SHARED else number
        found.setdefault(key, []).append(number)
    return list(found.values())


def _one_tree(trees: Sequence[Tree]) -> Tree:
    if len(trees) == 1:
        return trees[0]
    examples = [example for tree in trees for example in tree.examples]
    return lay_tree(*examples, feed_last=trees[0].last_token is not None)


def cut(trees: Sequence[Tree], max_tokens: int, cost: Cost = tree_cost) -> Batch:
    """One optimizer step's micro-batches."""
    return Batch(tuple(micro_batch(bin, cost) for bin in pack(trees, max_tokens, cost)))


def halves(batch: TreeBatch) -> tuple[TreeBatch, TreeBatch]:
    """A micro-batch of several examples as two, on the CPU."""
    middle, feed_last = len(batch.examples) // 2, batch.last_token is not None
    first, second = (
        micro_batch([lay_tree(e, feed_last=feed_last) for e in part], tree_cost)
        for part in (batch.examples[:middle], batch.examples[middle:])
    )
    return first, second


def pack(trees: Sequence[Tree], max_tokens: int, cost: Cost = tree_cost) -> list[list[Tree]]:
    """Cut a batch into few micro-batches of at most `max_tokens`, about equally expensive.

    How many there are is found by `first_fit`; over that many the trees are spread by their work,
    unless that would part trees that share. A tree larger than the budget is not cut: it makes a
    micro-batch of its own.
    """
    bins = _Bins(trees, max_tokens, cost)
    bins.fill()
    filled, slots = bins.trees, bins.slots.sum()
    if len(filled) > 1 and bins.spread(len(filled)) and bins.slots.sum() <= slots:
        return bins.trees
    return filled


def first_fit(trees: Sequence[Tree], max_tokens: int, cost: Cost) -> list[tuple[list[Tree], int]]:
    """Micro-batches and the slots they fill: a tree goes where it shares most, and else to the
    first with room; expensive ones first, families one after the other. Where nothing is shared
    that is first-fit decreasing: at most 11/9 of the fewest, nearly always the fewest."""
    bins = _Bins(trees, max_tokens, cost)
    bins.fill()
    return list(zip(bins.trees, bins.slots.tolist(), strict=True))


class _Bins:
    """Micro-batches of the same trees, filled one way or the other. trees: of each."""

    def __init__(self, trees: Sequence[Tree], max_tokens: int, cost: Cost) -> None:
        self._all, self._max_tokens, self._cost_of = trees, max_tokens, cost
        self._cost = np.array([cost(tree) for tree in trees])
        prompts = [tree.prompt_ids for tree in trees]
        self._alike = common_beginnings(prompts) if cost is tree_cost else None
        self._empty(0)

    def fill(self) -> None:
        """As `first_fit` says."""
        self._empty(0)
        for at in self._families_first():
            free = self._new_slots(at) <= self._max_tokens - self.slots
            if free.any():
                self._put(at, int(np.where(free, self._found(at), -1).argmax()))
            else:
                self.trees.append([])
                self._put(at, len(self.trees) - 1)

    def spread(self, count: int) -> bool:
        """The tree with most work goes where least is, over so many; whether there was room."""
        self._empty(count)
        load = np.zeros(count)
        for at in self._largest_first(work):
            empty = np.array([not bin for bin in self.trees])
            free = (self._new_slots(at) <= self._max_tokens - self.slots) | empty
            if not free.any():
                return False
            chosen = int(np.where(free, load, np.inf).argmin())
            load[chosen] += work(self._all[at]) - self._found(at)[chosen]
            self._put(at, chosen)
        return True

    @property
    def slots(self) -> np.ndarray:
        """(bins,) filled in each."""
        return self._slots[: len(self.trees)]

    def _empty(self, count: int) -> None:
        most = len(self._all)
        self.trees: list[list[Tree]] = [[] for _ in range(count)]
        self._slots = np.zeros(most, dtype=np.int64)
        self._shared = None if self._alike is None else np.zeros((most, most), dtype=np.int32)

    def _families_first(self) -> list[int]:
        """Places of the trees, family by family, the one with the largest tree first, and in a
        family those side by side that share most."""
        if self._alike is None:
            return self._largest_first(self._cost_of)
        families = _families(self._all)
        families.sort(key=lambda family: self._cost[family].max(), reverse=True)
        for family in families:
            family.sort(key=lambda at: self._all[at].prompt_ids.tobytes())
        return [at for family in families for at in family]

    def _largest_first(self, measure: Callable[[Tree], float]) -> list[int]:
        return sorted(range(len(self._all)), key=lambda i: measure(self._all[i]), reverse=True)

    def _found(self, at: int) -> np.ndarray:
        """(bins,) tokens that a tree would find in each already."""
        if self._shared is None:
            return np.zeros(len(self.trees), dtype=np.int64)
        return self._shared[at, : len(self.trees)]

    def _new_slots(self, at: int) -> np.ndarray:
        """(bins,) slots that a tree would add to each."""
        added: np.ndarray = self._cost[at] - self._found(at)
        return added

    def _put(self, at: int, bin: int) -> None:
        self._slots[bin] += self._new_slots(at)[bin]
        self.trees[bin].append(self._all[at])
        if self._shared is not None and self._alike is not None:
            self._shared[:, bin] = np.maximum(self._shared[:, bin], self._alike[at])


def common_beginnings(prompts: Sequence[np.ndarray]) -> np.ndarray | None:
    """(n, n) tokens with which two prompts both begin, 0 below `FEWEST_SHARED`; None if no two
    share that many.

    In sorted order, what two prompts share is the least that any two neighbours between them do.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].tobytes())
    neighbours = np.array([common_length([prompts[i], prompts[j]]) for i, j in pairwise(order)])
    if neighbours.max(initial=0) < FEWEST_SHARED:
        return None
    shared = np.zeros((len(prompts), len(prompts)), dtype=np.int32)
    for rank, place in enumerate(order[:-1]):
        least = np.minimum.accumulate(neighbours[rank:])
        shared[place, order[rank + 1 :]] = np.where(least >= FEWEST_SHARED, least, 0)
    both: np.ndarray = np.maximum(shared, shared.T)
    return both
