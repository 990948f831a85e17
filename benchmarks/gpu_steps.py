"""What the GPU benchmark compares: one training step, done in several ways on the same weights.

A way is a name: what the model is fed, and what is switched on beside it.

    trees       every distinct token once
    unshared    no padding, but each response repeats its prompt
    padded      [chosen; rejected] padded to the longest, scaled-dot-product attention, as TRL does

    +live       the reference is computed in every step, not once before
    +recompute  activation checkpointing
    +whole      padded only: logits of all scored positions at once; without it they go in tiles as
                for the others, and as TRL 1.16 does it on GPUs

Everything else is the same code for all: model, loss, clipping, fused AdamW, precision, head. What
TRL does beside this (gathers, metrics, host synchronisation) is left out, in its favour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from redpencil.data.packing import cut, pack
from redpencil.data.tree import join_trees, lay_tree, lay_trees
from redpencil.models.head import backbone, output_head
from redpencil.scores.chunked import chunked_logps
from redpencil.scores.forward import tree_logps
from redpencil.types import Batch, Example, TreeBatch

Score = Callable[[nn.Module, TreeBatch], Tensor]


@dataclass(frozen=True, slots=True)
class Way:
    """See the top of this file."""

    name: str
    feed: str
    live: bool
    recompute: bool
    whole: bool

    @classmethod
    def named(cls, name: str) -> "Way":
        """Raises ValueError for a name that means nothing."""
        feed, *switches = name.split("+")
        allowed = {"live", "recompute"} | ({"whole"} if feed == "padded" else set())
        if feed not in ("trees", "unshared", "padded") or not set(switches) <= allowed:
            raise ValueError(
                f"{name!r} is no way to make a step; say trees, unshared or padded, with +live, "
                "+recompute, or padded with +whole"
            )
        return cls(name, feed, *(switch in switches for switch in ("live", "recompute", "whole")))

    def batch(self, examples: Sequence[Example], budget: int) -> Batch:
        """One optimizer step's micro-batches of at most `budget` tokens fed, or pairs if padded."""
        if self.feed == "padded":
            laid = [pair for e in examples for pair in _pair_by_pair(e)]
            parts = range(0, len(laid), budget)
            return Batch(tuple(_joined(laid[i : i + budget]) for i in parts))
        trees = [lay_tree(e) for e in examples]
        if self.feed == "trees":
            return cut(trees, budget)
        bins = pack(trees, budget, lambda tree: sum(_path_lengths(tree.examples[0])))
        return Batch(tuple(_unshared(join_trees(t)) for t in bins))

    def score(self) -> Score:
        """(model, micro-batch) -> (B,) log-probabilities of its responses."""
        return PaddedScore(self.whole) if self.feed == "padded" else tree_logps


def _path_lengths(example: Example) -> list[int]:
    return [len(example.prompt_ids) + len(r.ids) - 1 for r in example.responses]


def _alone(example: Example, response: int) -> Example:
    return replace(
        example,
        responses=(example.responses[response],),
        comparisons=(),
        response_base=example.response_base + response,
    )


def _unshared(batch: TreeBatch) -> TreeBatch:
    """The same responses, in the same order, each as a tree of its own."""
    singles = [_alone(e, r) for e in batch.examples for r in range(len(e.responses))]
    return replace(lay_trees(singles), pairs=batch.pairs)


def _pair_by_pair(example: Example) -> list[tuple[Example, list[int]]]:
    """Each comparison as an example of two responses, with their indices in the data set."""
    return [
        (
            replace(
                example,
                responses=(example.responses[c.chosen], example.responses[c.rejected]),
                comparisons=(replace(c, chosen=0, rejected=1),),
            ),
            [example.response_base + c.chosen, example.response_base + c.rejected],
        )
        for c in example.comparisons
    ]


def _joined(pairs: Sequence[tuple[Example, list[int]]]) -> TreeBatch:
    batch = lay_trees([example for example, _ in pairs])
    return replace(batch, response_index=torch.tensor([i for _, index in pairs for i in index]))


@dataclass(frozen=True, slots=True, eq=False)
class _Padded:
    """ids, real: (R, L). before: (S,) positions in the flattened (R * L), each predicting one of
    targets: (S,). rows: (S,) whose they are."""

    ids: Tensor
    real: Tensor
    before: Tensor
    targets: Tensor
    rows: Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], device: torch.device) -> "_Padded":
        paths, prompts = [], []
        for example in examples:
            for response in example.responses:
                paths.append(np.concatenate([example.prompt_ids, response.ids]))
                prompts.append(len(example.prompt_ids))
        ids = torch.zeros(len(paths), max(map(len, paths)), dtype=torch.int64)
        real, before, targets, rows = torch.zeros_like(ids), [], [], []
        for row, (path, prompt) in enumerate(zip(paths, prompts, strict=True)):
            ids[row, : len(path)] = torch.from_numpy(path)
            real[row, : len(path)] = 1
            before.append(torch.arange(prompt - 1, len(path) - 1) + row * ids.shape[1])
            targets.append(ids[row, prompt : len(path)])
            rows.append(torch.full((len(path) - prompt,), row))
        flat = (torch.cat(parts) for parts in (before, targets, rows))
        return cls(*(t.to(device) for t in (ids, real, *flat)))


class PaddedScore:
    """A plain padded forward; the head runs over the positions that predict a response's token.

    A micro-batch is padded the first time it is seen: preparing data is not what is timed.
    """

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self._seen: dict[int, tuple[tuple[Example, ...], _Padded]] = {}

    def __call__(self, model: nn.Module, batch: TreeBatch) -> Tensor:
        padded = self._padded(batch)
        hidden = backbone(model)(
            input_ids=padded.ids, attention_mask=padded.real, use_cache=False
        ).last_hidden_state
        hidden = hidden.flatten(0, 1).index_select(0, padded.before)
        head = output_head(model)
        if self.whole:
            logits = nn.functional.linear(hidden, head.weight, head.bias).float()
            logps = logits.log_softmax(dim=1).gather(1, padded.targets[:, None])[:, 0]
        else:
            logps = chunked_logps(hidden, head.weight, head.bias, padded.targets)
        return logps.new_zeros(len(padded.ids)).index_add(0, padded.rows, logps)

    def _padded(self, batch: TreeBatch) -> _Padded:
        key = id(batch.examples)  # kept beside its value, so the id is not given out again
        if key not in self._seen:
            padded = _Padded.of(batch.examples, batch.input_ids.device)
            self._seen[key] = batch.examples, padded
        return self._seen[key][1]
