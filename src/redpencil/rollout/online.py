"""The stream of RL: batches of rollouts, drawn from the policy as training goes.

It yields `(batch, state after it)` as the loader of a file does, into the same engine. A batch of
rollouts is used for several steps (`passes`); the last of them is where a run may be stopped,
evaluated and resumed: what is drawn next depends on the weights and on the state alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from redpencil.data.loader import LoaderState, epoch_order
from redpencil.data.packing import Cost, cut, tree_cost
from redpencil.data.prompts import Prompt
from redpencil.data.tree import lay_tree
from redpencil.types import Batch, Example

Roll = Callable[[Sequence[Prompt], int], list[Example]]
"""(prompts, seed) -> one example for each, its responses drawn, rewarded and scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineLoader:
    """Draws `batch_size` prompts without replacement, rolls them out, and yields them `passes`
    times."""

    examples: Sequence[Prompt]
    batch_size: int
    passes: int
    max_tokens: int
    seed: int
    roll: Roll
    cost: Cost = tree_cost
    ahead: bool = False
    """Nothing can be drawn before the step ahead of it is made."""
    _kept: dict[tuple[int, int], list[Example]] = field(default_factory=dict)
    """The rollouts in use, should the stream start again in their midst with a smaller budget."""

    def with_budget(self, max_tokens: int) -> Self:
        return replace(self, max_tokens=max_tokens)

    def iterate(self, state: LoaderState) -> Iterator[tuple[Batch, LoaderState]]:
        assert self.examples, "rollouts need at least one prompt"
        epoch, drawn, used = state.epoch, state.drawn, state.used
        while True:
            order = epoch_order(len(self.examples), self.seed, epoch)
            while drawn < len(order):
                chosen = order[drawn : drawn + self.batch_size]
                batch = self._batch(epoch, drawn, chosen)
                for count in range(used + 1, self.passes):
                    yield batch, LoaderState(epoch, drawn, count)
                used, drawn = 0, drawn + len(chosen)
                at_end = drawn == len(order)
                yield batch, LoaderState(epoch + 1, 0) if at_end else LoaderState(epoch, drawn)
            epoch, drawn = epoch + 1, 0

    def _batch(self, epoch: int, drawn: int, chosen: np.ndarray) -> Batch:
        where = (epoch, drawn)
        if where not in self._kept:
            self._kept.clear()
            prompts = [self.examples[i] for i in chosen]
            self._kept[where] = self.roll(prompts, _seed(self.seed, epoch, drawn))
        trees = [lay_tree(e) for e in self._kept[where]]
        return cut(trees, self.max_tokens, self.cost)


def _seed(*numbers: int) -> int:
    """One seed for torch from several numbers; near ones give unlike streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
