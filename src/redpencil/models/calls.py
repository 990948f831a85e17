"""Attention over trees cut into rectangular calls: which queries meet which keys, and how.

Without a window a run is two calls: causal among its own tokens, dense over its path above. Where a
sliding window bites, or scores are soft-capped, its queries go in blocks, each against the part of
its path that it can see, under a mask of that block. Either way the work is the sum of run length x
path length (x window at most), and no mask covers a micro-batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from redpencil.models.layout import Range, Run

QUERY_BLOCK = 256
"""Queries of a masked call: its mask has QUERY_BLOCK x (QUERY_BLOCK + window) entries at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """Queries [start, end) meet the keys of some ranges, which stand in order of depth.

    causal: query i sees key k iff k <= i (own tokens). mask: (queries, keys) bool, what is seen;
    None for everything, or for what `causal` says.
    """

    start: int
    end: int
    keys: tuple[Range, ...]
    causal: bool
    mask: Tensor | None = None


def plain_calls(runs: Sequence[Run]) -> Iterator[Call]:
    """Each run over itself, then over the path above it: disjoint keys, to be merged."""
    for run in runs:
        yield Call(run.start, run.end, ((run.start, run.end),), causal=True)
        if run.above:
            yield Call(run.start, run.end, run.above, causal=False)


def windowed_calls(runs: Sequence[Run], window: int) -> Iterator[Call]:
    """Like `plain_calls` where a run ends within the window; blocks of queries below that."""
    for run in runs:
        if run.depth + run.end - run.start <= window:
            yield from plain_calls([run])
        else:
            yield from _blocks(run, window)


def masked_calls(runs: Sequence[Run], window: int | None) -> Iterator[Call]:
    """Every query in exactly one call, under its mask: for attention that cannot be merged."""
    for run in runs:
        yield from _blocks(run, window or run.depth + run.end - run.start)


def _blocks(run: Run, window: int) -> Iterator[Call]:
    for start in range(run.start, run.end, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, run.end)
        depth = run.depth + start - run.start
        unseen = max(0, depth - window + 1)
        keys = _without_first((*run.above, (run.start, end)), unseen)
        mask = torch.from_numpy(_mask(end - start, depth - unseen, window))
        yield Call(start, end, keys, causal=False, mask=mask)


def _without_first(path: tuple[Range, ...], tokens: int) -> tuple[Range, ...]:
    kept: list[Range] = []
    for start, end in path:
        dropped = min(tokens, end - start)
        tokens -= dropped
        if start + dropped < end:
            kept.append((start + dropped, end))
    return tuple(kept)


@lru_cache(maxsize=64)
def _mask(queries: int, keys_above: int, window: int) -> np.ndarray:
    """(queries, keys_above + queries) bool: the last `window` keys up to the query's own.

    Not a tensor: one made while a step is tried on fake tensors would be fake, and be kept.
    """
    query = np.arange(keys_above, keys_above + queries)[:, None]
    key = np.arange(keys_above + queries)[None, :]
    return (key <= query) & (query - key < window)
