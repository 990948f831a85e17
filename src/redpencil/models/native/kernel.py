"""tree_attention.c from Python: its structures, a call of it, and a test that it is right here.

Arrays are float32 and C-contiguous. N tokens, H query heads, K key heads, D width of a head.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch

from redpencil.models.layout import Run
from redpencil.models.native.library import addresses, library

VECTOR = 16
"""Widths of heads must be multiples of it: LANES_MOST in the C file."""
ITEMS_A_THREAD = 4
"""Work is dealt out in items; with fewer for a thread, threads wait for the longest one."""
TOLERANCE = 1e-4
"""How far results may be from the softmax written out, relative; rounding is 1e-6."""


@cache
def refusal() -> str | None:
    """Why the kernel is not to be had on this machine, to follow "as"; None if it is.

    The first call builds it and compares it with attention written out, on a small tree.
    """
    built = library()
    if isinstance(built, str):
        return built
    off = _difference()
    return None if off <= TOLERANCE else f"its own kernel is off by {off:.1g} on this machine"


@dataclass(frozen=True, slots=True)
class Work:
    """Runs in the kernel's terms, as flat lists: torch's own operations take no others.

    runs: start, end, depth, first of its ranges above, how many. above: start, end. groups: first
    and last run (exclusive) of those that share keys, the dearest group first.
    """

    runs: Sequence[int]
    above: Sequence[int]
    groups: Sequence[int]
    longest_path: int
    queries: int


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


def attend(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, work: Work, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """q: (N, H, D); k, v: (N, K, D). Returns (N, H, D) output, zero for tokens in no run, and
    (N, H) log-sum-exps, undefined for those."""
    out = _result(q, work)
    lse = np.empty(q.shape[:2], dtype=np.float32)
    _call(q, k, work, scale, _parts(q, k, work), value=v, out=out, lse=lse)
    return out, lse


def attend_backward(
    grad: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    lse: np.ndarray,
    work: Work,
    scale: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """grad: (N, H, D), of the output. Returns the gradients of q, k and v."""
    parts = _parts(q, k, work)
    grad_q = _result(q, work)
    grad_k, grad_v = (np.zeros((parts, *k.shape), dtype=np.float32) for _ in range(2))
    given = {"value": v, "lse": lse, "grad_out": grad}
    of = {"grad_query": grad_q, "grad_key": grad_k, "grad_value": grad_v}
    _call(q, k, work, scale, parts, **given, **of)
    return grad_q, *(of[0] if parts == 1 else of.sum(axis=0) for of in (grad_k, grad_v))


def _result(q: np.ndarray, work: Work) -> np.ndarray:
    return (np.empty_like if work.queries == len(q) else np.zeros_like)(q)


def _parts(q: np.ndarray, k: np.ndarray, work: Work) -> int:
    """How many items the query heads of one key head are."""
    items = len(work.groups) // 2 * k.shape[1]
    return q.shape[1] // k.shape[1] if items < ITEMS_A_THREAD * torch.get_num_threads() else 1


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


def _call(
    q: np.ndarray, k: np.ndarray, work: Work, scale: float, parts: int, **arrays: np.ndarray
) -> None:
    """Forward, or backward where there is a gradient, on torch's threads."""
    built = library()
    assert not isinstance(built, str), f"called without a library: {built}"
    (tokens, heads, width), key_heads = q.shape, k.shape[1]
    floats = built.count("scratch_floats", work.longest_path, width) * torch.get_num_threads()
    scratch = np.empty(floats, dtype=np.float32)
    lists = {name: np.array(getattr(work, name), np.int64) for name in ("runs", "above", "groups")}
    job = _Job(
        **addresses(query=q, key=k, scratch=scratch, **arrays),
        **{name: numbers.ctypes.data for name, numbers in lists.items()},
        group_count=len(work.groups) // 2,
        tokens=tokens,
        heads=heads,
        key_heads=key_heads,
        parts=parts,
        width=width,
        longest_path=work.longest_path,
        scale=scale,
        backward="grad_out" in arrays,
    )
    built.compute("tree_attention", job)


def _difference() -> float:
    """How far outputs and gradients are from those written out in float64 on a small tree,
    relative. In numpy, as this may be asked while tensors are fake."""
    runs = (Run(0, 61, ()), Run(61, 80, ((0, 40),)), Run(80, 83, ()))
    random = np.random.default_rng(0)
    q, grad = random.standard_normal((2, 83, 4, 2 * VECTOR), dtype=np.float32)
    k, v = random.standard_normal((2, 83, 2, 2 * VECTOR), dtype=np.float32)
    work, scale = work_of(runs), 0.3
    out, lse = attend(q, k, v, work, scale)
    ours = (out, *attend_backward(grad, q, k, v, lse, work, scale))
    theirs = _written_out(grad, q, k, v, runs, scale)
    return max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True)
    )


def _written_out(
    grad: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, runs: Sequence[Run], scale: float
) -> tuple[np.ndarray, ...]:
    """Output and gradients of q, k, v by the definition, in float64."""
    g, q, k, v = (x.astype(np.float64).transpose(1, 0, 2) for x in (grad, q, k, v))
    groups = len(q) // len(k)
    k, v = (np.repeat(x, groups, axis=0) for x in (k, v))
    seen = np.zeros((q.shape[1], q.shape[1]), dtype=bool)
    for run in runs:
        seen[run.start : run.end, run.start : run.end] = np.tri(run.end - run.start, dtype=bool)
        for start, end in run.above:
            seen[run.start : run.end, start:end] = True
    scores = np.where(seen, q @ k.transpose(0, 2, 1) * scale, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    of_p = g @ v.transpose(0, 2, 1)
    of_scores = p * (of_p - (p * of_p).sum(axis=-1, keepdims=True)) * scale

    def of_keys(grads: np.ndarray) -> Any:
        return grads.reshape(-1, groups, *grads.shape[1:]).sum(axis=1)

    results = (
        p @ v,
        of_scores @ k,
        of_keys(of_scores.transpose(0, 2, 1) @ q),
        of_keys(p.transpose(0, 2, 1) @ g),
    )
    return tuple(x.transpose(1, 0, 2) for x in results)
