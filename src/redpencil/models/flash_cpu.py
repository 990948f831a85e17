"""Attention over trees on a CPU: a few flash calls, exact, without a mask over the micro-batch.

A run's queries meet their own run in one causal call and the path above in one dense call. The two
partial results are merged by their log-sum-exps (which is exact), so the cost is the sum over runs
of run length x path length. Flash attention's backward needs only the *merged* output and
log-sum-exp: it then returns each part's share of the gradient, and the shares add up.

Soft-capped scores have no flash kernel here; they are written out block by block, and again in
backward.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from redpencil.models.calls import Call, masked_calls, plain_calls, windowed_calls
from redpencil.models.kernels import matrix_kernels
from redpencil.models.layout import Range, Run

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def flash_tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    runs: Sequence[Run],
    scale: float | None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention of every token in a run over its path, by runs; zeros for tokens in none.

    query: (1, H, N, Dh). key: (1, Hkv, N, Dh), value: (1, Hkv, N, Dv), H a multiple of Hkv. Returns
    (1, H, N, Dv) in the query's dtype. float32 inside also for bfloat16: this kernel's bfloat16
    backward is half as fast. scale: None for 1 / sqrt(Dh). window: the last tokens of its path
    that a query sees, its own included. softcap: scores become softcap * tanh(score / softcap).
    """
    inside = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (t.to(inside) for t in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if softcap is not None:
        calls = tuple(masked_calls(runs, window))
        return _capped(q, k, v, calls, scale, softcap).to(query.dtype)
    width = value.shape[-1]
    if width < query.shape[-1]:  # the kernel knows one width; zeros add nothing
        v = F.pad(v, (0, query.shape[-1] - width))
    calls = tuple(plain_calls(runs) if window is None else windowed_calls(runs, window))
    out: Tensor = _FlashTree.apply(q, k, v, calls, scale)
    return out[..., :width].to(query.dtype)


class _FlashTree(torch.autograd.Function):
    """The flash kernel's own products are small, and small ones are faster on the default path.

    A micro-batch takes dozens of calls a layer, so what is done around a call counts: views are
    `narrow`, results are added once and in place.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, calls: tuple[Call, ...], scale: float
    ) -> Tensor:
        outs: dict[Range, Tensor] = {}
        lses: dict[Range, Tensor] = {}
        with matrix_kernels("default"):
            for call in calls:
                own = (call.start, call.end)
                out, lse = _flash(
                    _side_by_side(query, (own,)),
                    _side_by_side(key, call.keys),
                    _side_by_side(value, call.keys),
                    0.0,
                    call.causal,
                    attn_mask=_additive(call.mask, query.dtype),
                    scale=scale,
                )
                if own in outs:
                    out, lse = _merged((outs[own], lses[own]), (out, lse))
                outs[own], lses[own] = out, lse
        whole = _joined(outs, query)
        ctx.save_for_backward(query, key, value, whole, *lses.values())
        ctx.places, ctx.calls, ctx.scale = tuple(lses), calls, scale
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *lses = ctx.saved_tensors
        lse_of = dict(zip(ctx.places, lses, strict=True))
        (grad_out,) = grads
        grad_queries: dict[Range, Tensor] = {}
        grad_key, grad_value = (torch.zeros_like(t) for t in (key, value))
        with matrix_kernels("default"):
            for call in ctx.calls:
                own = (call.start, call.end)
                dq, dk, dv = _flash_backward(
                    _side_by_side(grad_out, (own,)),
                    _side_by_side(query, (own,)),
                    _side_by_side(key, call.keys),
                    _side_by_side(value, call.keys),
                    _side_by_side(out, (own,)),
                    lse_of[own],
                    0.0,
                    call.causal,
                    attn_mask=_additive(call.mask, query.dtype),
                    scale=ctx.scale,
                )
                grad_queries[own] = grad_queries[own].add_(dq) if own in grad_queries else dq
                _add_back(grad_key, call.keys, dk)
                _add_back(grad_value, call.keys, dv)
        return _joined(grad_queries, query), grad_key, grad_value, None, None


def _joined(parts: dict[Range, Tensor], like: Tensor) -> Tensor:
    """Parts of the tokens become all N of them, zeros between; (1, H, N, D) in shape and
    (1, N, H, D) in memory: the layout of the projections before and after attention."""
    _, heads, tokens, width = like.shape
    whole = sum(end - start for start, end in parts) == tokens
    out = (like.new_empty if whole else like.new_zeros)(1, tokens, heads, width).transpose(1, 2)
    for own, part in parts.items():
        _side_by_side(out, (own,)).copy_(part)
    return out


def _merged(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two attentions over disjoint keys become the attention over all of them."""
    lse = torch.logaddexp(one[1], two[1])
    share = (two[1] - lse).exp().unsqueeze(-1)
    return torch.lerp(one[0], two[0], share), lse


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)[None, None]


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    calls: Sequence[Call],
    scale: float,
    softcap: float,
) -> Tensor:
    """Written out call by call; the scores of a call are not kept but computed again."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
        scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * (scale / softcap))
        return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ value

    def zeros(tokens: int) -> Tensor:
        return value.new_zeros(1, query.shape[1], tokens, value.shape[-1])

    outs: list[Tensor] = []
    done = 0
    for call in calls:
        own = query[:, :, call.start : call.end]
        keys, values = _side_by_side(key, call.keys), _side_by_side(value, call.keys)
        attended = checkpoint(attend, own, keys, values, call.mask, use_reentrant=False)
        outs += [zeros(call.start - done), attended]
        done = call.end
    return torch.cat([*outs, zeros(query.shape[2] - done)], dim=2)


def _side_by_side(tensor: Tensor, ranges: Sequence[Range]) -> Tensor:
    parts = [tensor.narrow(2, start, end - start) for start, end in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _add_back(total: Tensor, ranges: Sequence[Range], parts: Tensor) -> None:
    at = 0
    for start, end in ranges:
        total.narrow(2, start, end - start).add_(parts.narrow(2, at, end - start))
        at += end - start
