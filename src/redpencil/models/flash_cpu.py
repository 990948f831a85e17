"""Attention over trees on a CPU: a few flash calls, no mask, exact.

Each run attends to itself with one causal call and to its path above with one dense call. The two
partial results are merged by their log-sum-exps (which is exact), so the cost is the sum over runs
of run length x path length. Flash attention's backward needs only the *merged* output and
log-sum-exp: it then returns each part's share of the gradient, and the shares add up.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from redpencil.models.layout import Range, Run

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def flash_tree_attention(
    query: Tensor, key: Tensor, value: Tensor, runs: Sequence[Run], scale: float | None
) -> Tensor:
    """Attention of every token over its path, by runs.

    query: (1, H, N, Dh). key, value: (1, Hkv, N, Dh), H a multiple of Hkv. Returns (1, H, N, Dh)
    in the query's dtype. float32 inside also for bfloat16: this kernel's bfloat16 backward is
    half as fast. scale: None for 1 / sqrt(Dh).
    """
    inside = torch.promote_types(query.dtype, torch.float32)
    out = _FlashTree.apply(query.to(inside), key.to(inside), value.to(inside), tuple(runs), scale)
    return out.to(query.dtype)


class _FlashTree(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, runs: tuple[Run, ...], scale: float
    ) -> Tensor:
        # (1, N, H, Dh) in memory: the layout of the projections before and after attention.
        out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        out = out.transpose(1, 2)
        lse = query.new_empty(query.shape[:3])
        for run in runs:
            own = slice(run.start, run.end)
            part = _attend(query, key, value, own, [(run.start, run.end)], True, scale)
            if run.above:
                above = _attend(query, key, value, own, run.above, False, scale)
                part = _merged(part, above)
            out[:, :, own], lse[:, :, own] = part
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.runs, ctx.scale = runs, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        (grad_out,) = grads
        grad_query, grad_key, grad_value = (_zeros_like(t) for t in (query, key, value))
        for run in ctx.runs:
            own = slice(run.start, run.end)
            parts: list[tuple[Sequence[Range], bool]] = [([(run.start, run.end)], True)]
            if run.above:
                parts.append((run.above, False))
            for ranges, causal in parts:
                dq, dk, dv = _flash_backward(
                    grad_out[:, :, own],
                    query[:, :, own],
                    _side_by_side(key, ranges),
                    _side_by_side(value, ranges),
                    out[:, :, own],
                    lse[:, :, own],
                    0.0,
                    causal,
                    scale=ctx.scale,
                )
                grad_query[:, :, own] += dq
                _add_back(grad_key, ranges, dk)
                _add_back(grad_value, ranges, dv)
        return grad_query, grad_key, grad_value, None, None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own: slice,
    ranges: Sequence[Range],
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of the own queries over the keys of some ranges."""
    assert own.stop > own.start, "the flash kernel dies on an empty query"
    out, lse = _flash(
        query[:, :, own],
        _side_by_side(key, ranges),
        _side_by_side(value, ranges),
        0.0,
        causal,
        scale=scale,
    )
    return out, lse


def _merged(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two attentions over disjoint keys become the attention over all of them."""
    lse = torch.logaddexp(one[1], two[1])
    share = (two[1] - lse).exp().unsqueeze(-1)
    return torch.lerp(one[0], two[0], share), lse


def _side_by_side(tensor: Tensor, ranges: Sequence[Range]) -> Tensor:
    parts = [tensor[:, :, start:end] for start, end in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _add_back(total: Tensor, ranges: Sequence[Range], parts: Tensor) -> None:
    at = 0
    for start, end in ranges:
        total[:, :, start:end] += parts[:, :, at : at + end - start]
        at += end - start


def _zeros_like(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, memory_format=torch.preserve_format)
