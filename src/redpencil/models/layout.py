"""How a micro-batch of trees lies in memory, as attention needs it: runs and block masks.

A segment's first child follows it directly in preorder, so root, first child, first child's first
child, ... is one contiguous **run** inside which attention is plainly causal. A tree of K
responses is K runs: the first holds the prompt and the first response, each other one starts
where its response branches off and also sees the tokens on its path above that point.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from torch import nn
from torch.nn.attention.flex_attention import BlockMask

from redpencil.models.flex import tree_block_mask
from redpencil.types import Places, Segment, TreeBatch

Range = tuple[int, int]
"""Flat tokens [start, end)."""


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens [start, end), causal among themselves, that all also see the ranges `above`."""

    start: int
    end: int
    above: tuple[Range, ...]

    @property
    def depth(self) -> int:
        """Tokens on the path above, which all of `above` is."""
        return sum(end - start for start, end in self.above)


def runs_of(segments: Sequence[Segment]) -> tuple[Run, ...]:
    """Join every segment with its first child; what a run sees above it, in order of position."""
    starts: list[int] = []
    ends: list[int] = []
    aboves: list[tuple[Range, ...]] = []
    run_of: list[int] = []
    for segment in segments:
        parent = segment.parent
        follows = parent >= 0 and segments[parent].end == segment.start
        if follows:
            run = run_of[parent]
            ends[run] = segment.end
        else:
            run = len(starts)
            above: tuple[Range, ...] = ()
            if parent >= 0:
                trunk = run_of[parent]
                above = (*aboves[trunk], (starts[trunk], segments[parent].end))
            starts.append(segment.start)
            ends.append(segment.end)
            aboves.append(_joined(above))
        run_of.append(run)
    return tuple(Run(*run) for run in zip(starts, ends, aboves, strict=True))


def _joined(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    """Adjacent ranges become one, so that keys need not be copied to stand side by side."""
    joined: list[Range] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


def _narrowed(runs: Sequence[Run], read: np.ndarray) -> Iterator[Run]:
    """What queries from a run's first token in `read` to its last still have to see: the run's
    tokens before them stand above them now."""
    for run in runs:
        inside = read[np.searchsorted(read, run.start) : np.searchsorted(read, run.end)]
        if len(inside):
            first, last = int(inside[0]), int(inside[-1])
            before = ((run.start, first),) if first > run.start else ()
            yield Run(first, last + 1, _joined((*run.above, *before)))


PathName = Literal["compiled", "flash", "flex", "dense"]
"""Ways to the same attention: `tree_attention` picks one by device, or takes the one asked for."""

_ASKED_FOR: ContextVar[PathName | None] = ContextVar("redpencil_attention_path", default=None)


@contextmanager
def attention_path(name: PathName) -> Iterator[None]:
    """Inside, micro-batches are laid out for one way of computing attention, whatever the device:
    for tests that compare ways, and for timing them."""
    token = _ASKED_FOR.set(name)
    try:
        yield
    finally:
        _ASKED_FOR.reset(token)


@dataclass(eq=False)
class TreeLayout:
    """One micro-batch as attention sees it, and what was seen of the model while it was in force.

    read: the tokens whose last hidden state will be read; None for all. path: the way asked for;
    kept here because recomputation happens in another thread. calls: how often an attention layer
    came to redpencil. windows: sliding windows these layers asked for. masked_windows: those the
    model asked the mask for; a model whose windows reach the mask only cannot take trees. ways: how
    attention was computed and why so, in words. gathered: modules at work on `read` alone.
    """

    batch: TreeBatch
    runs: tuple[Run, ...]
    longest_path: int
    read: Places | None = None
    path: PathName | None = field(default_factory=_ASKED_FOR.get)
    calls: int = 0
    windows: set[int] = field(default_factory=set)
    masked_windows: set[int] = field(default_factory=set)
    ways: set[str] = field(default_factory=set)
    gathered: set[nn.Module] = field(default_factory=set)
    _block_masks: dict[int | None, BlockMask] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: TreeBatch, read: Places | None = None) -> "TreeLayout":
        return cls(
            batch=batch,
            runs=runs_of(batch.segments),
            longest_path=_longest_path(batch.segments),
            read=None if read is None or len(read) == len(batch.input_ids) else read,
        )

    @property
    def tokens(self) -> int:
        return len(self.batch.input_ids)

    @cached_property
    def read_runs(self) -> tuple[Run, ...]:
        """The runs, each from its first token that is read to its last one."""
        return self.runs if self.read is None else tuple(_narrowed(self.runs, self.read.host))

    def query_runs(self, last_layer: bool) -> tuple[Run, ...]:
        """The runs whose queries a layer needs."""
        return self.read_runs if last_layer else self.runs

    def block_mask(self, window: int | None) -> BlockMask:
        """The rule for FlexAttention over the whole micro-batch; built once for all layers."""
        if window not in self._block_masks:
            self._block_masks[window] = tree_block_mask(
                self.batch.subtree_end, self.batch.position_ids, window
            )
        return self._block_masks[window]


def _longest_path(segments: Sequence[Segment]) -> int:
    depths: list[int] = []
    for segment in segments:
        above = depths[segment.parent] if segment.parent >= 0 else 0
        depths.append(above + segment.end - segment.start)
    return max(depths, default=0)


_IN_FORCE: ContextVar[TreeLayout | None] = ContextVar("redpencil_layout", default=None)

layout_in_force = _IN_FORCE.get
"""The layout of the micro-batch that is going through a model, or None."""


@contextmanager
def in_force(layout: TreeLayout) -> Iterator[TreeLayout]:
    """Inside, `layout_in_force()` is this one."""
    token = _IN_FORCE.set(layout)
    try:
        yield layout
    finally:
        _IN_FORCE.reset(token)


@contextmanager
def laid_out(batch: TreeBatch, read: Places | None = None) -> Iterator[TreeLayout]:
    """Inside, installed models attend over the trees of `batch`.

    The input must then be `batch.input_ids[None]` with `position_ids=batch.position_ids[None]`,
    no attention mask, and `use_cache=False`. read: the tokens whose last hidden state will be read;
    that of others is not what the model would give. None: all are.
    """
    with in_force(TreeLayout.of(batch, read)) as layout:
        yield layout
