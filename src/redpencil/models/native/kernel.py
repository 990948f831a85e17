"""tree_attention.c from Python: runs in its terms, and a call of it.

Arrays are float32 and C-contiguous. N tokens, H query heads, K key heads, D width of a head.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Self

import numpy as np
import torch

from redpencil.models.layout import Run
from redpencil.models.native.library import addresses, built

VECTOR = 16
"""Widths of heads must be multiples of it: LANES_MOST in vectors.h."""
ITEMS_A_THREAD = 4
"""Work is dealt out in items; with fewer for a thread, threads wait for the longest one."""


@dataclass(frozen=True, slots=True)
class Work:
    """Runs in the kernel's terms.

    runs: start, end, depth, first of its ranges above, how many. above: start, end. groups: first
    and last run (exclusive) of those that share keys, the dearest group first.
    """

    runs: Sequence[int]
    above: Sequence[int]
    groups: Sequence[int]
    longest_path: int
    queries: int

    def flat(self) -> list[int]:
        """As one list, which is all that torch's own operations take."""
        lists = (self.runs, self.above, self.groups)
        return [self.longest_path, self.queries, *map(len, lists), *chain(*lists)]

    @classmethod
    def of(cls, flat: Sequence[int]) -> Self:
        """From that list."""
        longest_path, queries, *lengths = flat[:5]
        rest = iter(flat[5:])
        runs, above, groups = (list(islice(rest, length)) for length in lengths)
        return cls(runs, above, groups, longest_path, queries)


@lru_cache(maxsize=8)
def work_of(runs: tuple[Run, ...]) -> Work:
    """The same for all layers of a micro-batch; the last layer may have other queries."""
    rows: list[int] = []
    above: list[int] = []
    groups: list[tuple[float, int, int]] = []
    end = 0
    for i, run in enumerate(runs):
        cost = (run.end - run.start) * (run.depth + (run.end - run.start) / 2)
        first_key = run.above[0][0] if run.above else run.start
        if groups and first_key < end:
            before, first, _ = groups.pop()
            groups.append((before + cost, first, i + 1))
        else:
            groups.append((cost, i, i + 1))
        end = max(end, run.end)
        rows += [run.start, run.end, run.depth, len(above) // 2, len(run.above)]
        above += [at for range_ in run.above for at in range_]
    groups.sort(key=lambda group: -group[0])
    return Work(
        runs=rows,
        above=above,
        groups=[at for _, *pair in groups for at in pair],
        longest_path=max((run.depth + run.end - run.start for run in runs), default=0),
        queries=sum(run.end - run.start for run in runs),
    )


def parts(query: np.ndarray, key: np.ndarray, work: Work) -> int:
    """How many items the query heads of one key head are; each has gradients of keys and values of
    its own, to be summed. query: (N, H, D), key: (N, K, D)."""
    items = len(work.groups) // 2 * key.shape[1]
    few = items < ITEMS_A_THREAD * torch.get_num_threads()
    return query.shape[1] // key.shape[1] if few else 1


class _Job(ctypes.Structure):
    """`Job` of the C file, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "grad_out", "out", "lse")),
        *((name, ctypes.c_void_p) for name in ("grad_query", "grad_key", "grad_value", "scratch")),
        *((name, ctypes.c_void_p) for name in ("runs", "above", "groups")),
        *((name, ctypes.c_long) for name in ("group_count", "tokens", "heads", "key_heads")),
        *((name, ctypes.c_long) for name in ("parts", "width", "longest_path")),
        ("scale", ctypes.c_float),
        ("backward", ctypes.c_int),
    )


def attend(
    work: Work,
    scale: float,
    *,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    **others: np.ndarray,
) -> None:
    """Fill `out`, (N, H, D), and `lse`, (N, H), log-sum-exps of the scores over their scale. Or,
    given `lse` and `grad_out`, (N, H, D), fill `grad_query`, and add to `grad_key` and
    `grad_value`, (parts, N, K, D).

    query: (N, H, D). key, value: (N, K, D). What belongs to tokens in no run is left as it is.
    """
    (tokens, heads, width), key_heads = query.shape, key.shape[1]
    groups, of_heads = len(work.groups) // 2, parts(query, key, work)
    slots = min(torch.get_num_threads(), groups * key_heads * of_heads)
    floats = built().count("scratch_floats", work.longest_path, width) * slots
    scratch = np.empty(floats, dtype=np.float32)
    lists = {name: np.array(getattr(work, name), np.int64) for name in ("runs", "above", "groups")}
    job = _Job(
        **addresses(query=query, key=key, value=value, scratch=scratch, **others),
        **{name: numbers.ctypes.data for name, numbers in lists.items()},
        group_count=groups,
        tokens=tokens,
        heads=heads,
        key_heads=key_heads,
        parts=of_heads,
        width=width,
        longest_path=work.longest_path,
        scale=scale,
        backward="grad_out" in others,
    )
    built().compute("tree_attention", job)
