"""Trees into micro-batches by token budget, those that begin alike together.

`max_tokens` counts the distinct tokens of a micro-batch. Prompts under one system prompt, with the
same examples before the question, or of one dialogue at several turns begin with the same tokens:
in one micro-batch these are computed once, as a prompt is for its responses. Trees that share a
beginning therefore seek each other, and only what is new of a tree counts against the budget.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np

from redpencil.data.tree import Tree, common_length, join_trees, lay_tree
from redpencil.types import Batch, TreeBatch

Cost = Callable[[Tree], int]
"""Token slots a tree takes of a micro-batch's budget."""


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
"""A shorter common beginning is not shared: attention pays a little for each branch."""


def micro_batch(trees: Sequence[Tree], cost: Cost) -> TreeBatch:
    """One micro-batch of these trees; where trees are what counts, those that begin alike are laid
    anew as one."""
    if cost is not tree_cost:
        return join_trees(trees)
    alike: dict[bytes | int, list[Tree]] = {}
    for number, tree in enumerate(trees):
        begins = tree.prompt_ids[:FEWEST_SHARED]
        alike.setdefault(begins.tobytes() if len(begins) == FEWEST_SHARED else number, []).append(
            tree
        )
    return join_trees([_one_tree(group) for group in alike.values()])


def _one_tree(trees: Sequence[Tree]) -> Tree:
    if len(trees) == 1:
        return trees[0]
    examples = [example for tree in trees for example in tree.examples]
    return lay_tree(*examples, feed_last=trees[0].last_token is not None)


def cut(trees: Sequence[Tree], max_tokens: int, cost: Cost = tree_cost) -> Batch:
    """One optimizer step's micro-batches."""
    return Batch(tuple(micro_batch(bin, cost) for bin in pack(trees, max_tokens, cost)))


def pack(trees: Sequence[Tree], max_tokens: int, cost: Cost = tree_cost) -> list[list[Tree]]:
    """Cut a batch into few micro-batches of at most `max_tokens`, about equally expensive.

    How many there are is found by first-fit decreasing; over that many the trees are spread by
    their work. A tree larger than the budget is not cut: it makes a micro-batch of its own.
    """
    filled = first_fit(trees, max_tokens, cost)
    return _balanced(trees, len(filled), max_tokens, cost) or [bin for bin, _ in filled]


def first_fit(trees: Sequence[Tree], max_tokens: int, cost: Cost) -> list[tuple[list[Tree], int]]:
    """Micro-batches and the slots they fill: the most expensive tree left goes where it shares
    most, and else to the first with room. At most 11/9 of the fewest, nearly always the fewest."""
    bins = _Bins(trees, max_tokens, cost)
    for at in bins.by(cost):
        free = bins.new_slots(at) <= bins.room
        shared = np.where(free, bins.shared[at], -1)
        bins.put(at, int(shared.argmax()) if free.any() else bins.open())
    return [(bin, max_tokens - int(room)) for bin, room in zip(bins.trees, bins.room, strict=True)]


def _balanced(
    trees: Sequence[Tree], count: int, max_tokens: int, cost: Cost
) -> list[list[Tree]] | None:
    """The most expensive tree left goes where least work is, if there is room; None if it fails."""
    bins = _Bins(trees, max_tokens, cost)
    for _ in range(count):
        bins.open()
    load = np.zeros(count)
    for at in bins.by(work):
        empty = np.array([not bin for bin in bins.trees])
        free = (bins.new_slots(at) <= bins.room) | empty
        if not free.any():
            return None
        chosen = int(np.where(free, load, np.inf).argmin())
        load[chosen] += work(trees[at]) - bins.shared[at, chosen]
        bins.put(at, chosen)
    return bins.trees


class _Bins:
    """Micro-batches being filled. trees: of each. room: (bins,) slots left in each. shared: (trees,
    bins) tokens that a tree would find there already."""

    def __init__(self, trees: Sequence[Tree], max_tokens: int, cost: Cost) -> None:
        self._all, self._max_tokens = trees, max_tokens
        self._cost = np.array([cost(tree) for tree in trees])
        prompts = [tree.prompt_ids for tree in trees]
        self._alike = common_beginnings(prompts) if cost is tree_cost else None
        self.trees: list[list[Tree]] = []
        self.room = np.zeros(0, dtype=np.int64)
        self.shared = np.zeros((len(trees), 0), dtype=np.int64)

    def by(self, measure: Callable[[Tree], float]) -> Iterable[int]:
        """Places of the trees, the largest first."""
        return sorted(range(len(self._all)), key=lambda i: measure(self._all[i]), reverse=True)

    def new_slots(self, at: int) -> np.ndarray:
        """(bins,) slots that a tree would add to each."""
        added: np.ndarray = self._cost[at] - self.shared[at]
        return added

    def open(self) -> int:
        """Open a new one and return its place."""
        self.trees.append([])
        self.room = np.append(self.room, self._max_tokens)
        self.shared = np.pad(self.shared, ((0, 0), (0, 1)))
        return len(self.trees) - 1

    def put(self, at: int, bin: int) -> None:
        self.room[bin] -= self.new_slots(at)[bin]
        self.trees[bin].append(self._all[at])
        if self._alike is not None:
            self.shared[:, bin] = np.maximum(self.shared[:, bin], self._alike[at])


def common_beginnings(prompts: Sequence[np.ndarray]) -> np.ndarray | None:
    """(n, n) tokens with which two prompts both begin, 0 below `FEWEST_SHARED`; None if no two
    share that many.

    In sorted order, what two prompts share is the least that any two neighbours between them do.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].tobytes())
    neighbours = [common_length([prompts[i], prompts[j]]) for i, j in pairwise(order)]
    if max(neighbours, default=0) < FEWEST_SHARED:
        return None
    shared = np.zeros((len(prompts), len(prompts)), dtype=np.int64)
    for rank, place in enumerate(order[:-1]):
        least = np.minimum.accumulate(neighbours[rank:])
        shared[place, order[rank + 1 :]] = np.where(least >= FEWEST_SHARED, least, 0)
    both: np.ndarray = np.maximum(shared, shared.T)
    return both
