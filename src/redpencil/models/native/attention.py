"""Attention over trees by redpencil's own kernel, compiled for the CPU it runs on.

torch's flash kernel for CPUs takes a run in pieces of 32 queries, and reaches a quarter of the
machine's matrix-product rate on runs of a hundred tokens, two thirds on thousands. This one (see
tree_attention.c) reaches half of it, and 0.85.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from redpencil.models.layout import Run
from redpencil.models.native import kernel
from redpencil.models.native.kernel import VECTOR, Work, work_of

LARGEST_PATH = 2**19
"""Numbers in the keys of the longest path under one head: beyond, they and their gradients leave a
core's cache, and flash attention is faster."""


def fits(longest_path: int, query: Tensor) -> bool:
    """Whether that many keys under a head of these queries, (1, H, N, D), stay near a core."""
    return longest_path * query.shape[-1] <= LARGEST_PATH


def compiled_tree_attention(
    query: Tensor, key: Tensor, value: Tensor, runs: Sequence[Run], scale: float | None
) -> Tensor:
    """Attention of every token in a run over its path, by runs; zeros for tokens in none.

    query: (1, H, N, D). key: (1, K, N, D), value: (1, K, N, Dv) with Dv <= D, H a multiple of K.
    Returns (1, H, N, Dv) in the query's dtype; float32 inside. scale: None for 1 / sqrt(D).
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    whole = -(-query.shape[-1] // VECTOR) * VECTOR  # zeros add nothing
    q, k, v = (_widened(t.float(), whole) for t in (query, key, value))
    out: Tensor = _CompiledTree.apply(q, k, v, work_of(tuple(runs)).flat(), scale)
    return out[..., : value.shape[-1]].to(query.dtype)


def _widened(tensor: Tensor, width: int) -> Tensor:
    short = width - tensor.shape[-1]
    return F.pad(tensor, (0, short)) if short else tensor


class _CompiledTree(torch.autograd.Function):
    """Tensors go to the kernel as (N, heads, D), which is how projections leave them."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, work: list[int], scale: float
    ) -> Tensor:
        q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
        out, lse = _attend(q, k, v, work, scale)
        ctx.save_for_backward(q, k, v, lse)
        ctx.work, ctx.scale = work, scale
        return out[None].transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, lse = ctx.saved_tensors
        g = grads[0][0].transpose(0, 1).contiguous()
        of_inputs = _attend_backward(g, q, k, v, lse, ctx.work, ctx.scale)
        return *(t[None].transpose(1, 2) for t in of_inputs), None, None


# Operations of torch's own kind, so that a step can be tried on tensors without data (fake ones).


@torch.library.custom_op("redpencil::tree_attention", mutates_args=(), device_types="cpu")
def _attend(
    q: Tensor, k: Tensor, v: Tensor, work: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    """`kernel.attend` on tensors, forward. work: a flat `Work`."""
    todo = Work.of(work)
    given = {"query": q.numpy(), "key": k.numpy(), "value": v.numpy()}
    out, lse = _of_queries(q, todo), q.new_empty(q.shape[:2])
    kernel.attend(todo, scale, **given, out=out.numpy(), lse=lse.numpy())
    return out, lse


@_attend.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:2])


@torch.library.custom_op("redpencil::tree_attention_backward", mutates_args=(), device_types="cpu")
def _attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, work: Sequence[int], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`kernel.attend` on tensors, backward."""
    todo = Work.of(work)
    given = {"query": q.numpy(), "key": k.numpy(), "value": v.numpy()}
    of_q = _of_queries(q, todo)
    parts = kernel.parts(given["query"], given["key"], todo)
    of_k, of_v = (k.new_zeros(parts, *k.shape) for _ in range(2))
    of = {"grad_query": of_q.numpy(), "grad_key": of_k.numpy(), "grad_value": of_v.numpy()}
    kernel.attend(todo, scale, **given, grad_out=grad.numpy(), lse=lse.numpy(), **of)
    return of_q, _summed(of_k), _summed(of_v)


@_attend_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _of_queries(q: Tensor, work: Work) -> Tensor:
    """Room for a number for each of q's; zeros where tokens in no run will be left as they are."""
    return torch.empty_like(q) if work.queries == len(q) else torch.zeros_like(q)


def _summed(parts: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0)
