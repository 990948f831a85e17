"""Whether what was compiled computes what it stands for, on this machine: once a process.

In numpy throughout, as this may be asked while torch's tensors are fake.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from redpencil.models.layout import Run
from redpencil.models.native import kernel, rows
from redpencil.models.native.kernel import VECTOR, work_of
from redpencil.models.native.library import library

TOLERANCE = 1e-4
"""How far results may be from those written out, relative; rounding is 1e-6."""


@cache
def refusal() -> str | None:
    """Why the compiled kernels are not to be had on this machine, to follow "as"; None if they are.

    The first call builds them and compares them with their definitions in float64.
    """
    built = library()
    if isinstance(built, str):
        return built
    off = max(attention_error(), gate_error(), norm_error(), rotation_error())
    return None if off <= TOLERANCE else f"its own kernels are off by {off:.1g} on this machine"


def attention_error() -> float:
    """Of outputs and gradients on a small tree and another one, relative."""
    runs = (Run(0, 61, ()), Run(61, 80, ((0, 40),)), Run(80, 83, ()))
    random = np.random.default_rng(0)
    query, grad = random.standard_normal((2, 83, 4, 2 * VECTOR), dtype=np.float32)
    key, value = random.standard_normal((2, 83, 2, 2 * VECTOR), dtype=np.float32)
    work, scale = work_of(runs), 0.3
    given = {"query": query, "key": key, "value": value}
    out, grad_q = np.empty_like(query), np.empty_like(query)
    lse = np.empty(query.shape[:2], dtype=np.float32)
    kernel.attend(work, scale, **given, out=out, lse=lse)
    shape = (kernel.parts(query, key, work), *key.shape)
    grad_k, grad_v = np.zeros((2, *shape), dtype=np.float32)
    of = {"grad_query": grad_q, "grad_key": grad_k, "grad_value": grad_v}
    kernel.attend(work, scale, **given, grad_out=grad, lse=lse, **of)
    ours = (out, grad_q, grad_k.sum(axis=0), grad_v.sum(axis=0))
    return _largest_error(ours, _attention(grad, query, key, value, runs, scale))


def gate_error() -> float:
    random = np.random.default_rng(1)
    gate, up, grad = random.standard_normal((3, 5, 3 * VECTOR), dtype=np.float32)
    product, grad_gate, grad_up = np.empty((3, *gate.shape), dtype=np.float32)
    rows.gate(gate=gate, up=up, product=product)
    rows.gate(gate=gate, up=up, grad=grad, grad_gate=grad_gate, grad_up=grad_up)
    x = gate.astype(np.float64)
    s = 1 / (1 + np.exp(-x))
    theirs = (x * s * up, grad * up * s * (1 + x * (1 - s)), grad * x * s)
    return _largest_error((product, grad_gate, grad_up), theirs)


def norm_error() -> float:
    random = np.random.default_rng(2)
    x, grad = random.standard_normal((2, 7, 3 * VECTOR), dtype=np.float32)
    weight = random.standard_normal(3 * VECTOR, dtype=np.float32)
    out, grad_x = np.empty((2, *x.shape), dtype=np.float32)
    scale = np.empty(len(x), dtype=np.float32)
    pieces = np.empty((rows.pieces(*x.shape), x.shape[1]), dtype=np.float32)
    given = {"x": x, "weight": weight, "scale": scale}
    rows.norm(0.1, **given, out=out)
    rows.norm(0.1, **given, grad=grad, grad_x=grad_x, grad_weight=pieces)
    s = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 0.1)
    n, g = x * s, grad.astype(np.float64) * weight
    of_x = s * (g - n * (g * n).mean(axis=1, keepdims=True))
    ours = (out, grad_x, pieces.sum(axis=0))
    return _largest_error(ours, (weight * n, of_x, (grad * n).sum(axis=0)))


def rotation_error() -> float:
    random = np.random.default_rng(3)
    x, grad = random.standard_normal((2, 5, 3, 4 * VECTOR), dtype=np.float32)
    cosine, sine = random.standard_normal((2, 5, 4 * VECTOR), dtype=np.float32)
    out, grad_x = np.empty((2, *x.shape), dtype=np.float32)
    rows.rotate(back=False, x=x, cosine=cosine, sine=sine, out=out)
    rows.rotate(back=True, x=grad, cosine=cosine, sine=sine, out=grad_x)
    c, s = cosine.astype(np.float64)[:, None], sine.astype(np.float64)[:, None]
    half = 2 * VECTOR
    turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    turned_back = np.concatenate([(grad * s)[..., half:], -(grad * s)[..., :half]], axis=-1)
    return _largest_error((out, grad_x), (x * c + turned * s, grad * c + turned_back))


def _largest_error(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Relative to the largest number of each array; NaN counts as far off."""
    errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True)]
    return float(np.nan_to_num(errors, nan=np.inf).max())


def _attention(
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

    def of_keys(grads: np.ndarray) -> np.ndarray:
        return grads.reshape(-1, groups, *grads.shape[1:]).sum(axis=1)

    results = (
        p @ v,
        of_scores @ k,
        of_keys(of_scores.transpose(0, 2, 1) @ q),
        of_keys(p.transpose(0, 2, 1) @ g),
    )
    return tuple(x.transpose(1, 0, 2) for x in results)
