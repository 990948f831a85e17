"""Log-probabilities of scored tokens, in chunks: full logits never exist, forward or backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 1 << 24
"""Logits of a chunk, rows x vocabulary: 64 MiB in float32. Backward has a few of them at once."""

KEPT_ELEMENTS = 1 << 25
"""Up to this many logits in all (128 MiB) are kept for backward rather than computed again."""


def chunked_logps(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_ids_S: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """log softmax(cap(scale * (hidden @ weight.T + bias)))[target], (S,) float32.

    hidden_SD: (S, D). weight_VD: (V, D). bias_V: (V,) or None. target_ids_S: (S,) int64.
    cap(x) = softcap * tanh(x / softcap). Float64 inputs give float64. Differentiable in hidden,
    weight and bias; backward computes each chunk's logits again, unless all of them together are
    few (`KEPT_ELEMENTS`). Gradients of weight and bias are summed in float32 over the chunks, then
    rounded to the parameter's dtype once. Under autocast the products run in its dtype, everything
    after them in float32.
    """
    rows = max(1, chunk_elements // weight_VD.shape[0])
    out: Tensor = _ChunkedLogps.apply(
        hidden_SD, weight_VD, bias_V, target_ids_S, scale, softcap, rows, torch.is_grad_enabled()
    )
    return out


class _ChunkedLogps(torch.autograd.Function):
    """Row chunks through the head. With p = softmax(logits), d logp_t / d logits = onehot_t - p."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        rows: int,
        training: bool,
    ) -> Tensor:
        # Under autocast the product runs in its dtype, as the model's own head would.
        if torch.is_autocast_enabled(hidden.device.type):
            compute = torch.get_autocast_dtype(hidden.device.type)
        else:
            compute = torch.promote_types(hidden.dtype, weight.dtype)
        logps = hidden.new_empty(len(hidden), dtype=_at_least_float32(compute))
        keeps = training and len(hidden) * len(weight) <= KEPT_ELEMENTS
        kept: list[Tensor] = []
        with torch.autocast(hidden.device.type, enabled=False):  # dtypes are explicit in here
            head = _Head.of(weight, bias, compute, scale, softcap)
            for part in _parts(len(hidden), rows):
                logits = head.logits(hidden[part].to(compute))
                chosen = logits.gather(1, targets[part, None])[:, 0]
                logps[part] = chosen - logits.logsumexp(dim=1)
                if keeps:
                    kept.append(logits)
        ctx.save_for_backward(hidden, weight, bias, targets, *kept)
        ctx.head, ctx.compute, ctx.rows = (scale, softcap), compute, rows
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, *kept = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        wide = _at_least_float32(ctx.compute)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if needs_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            head = _Head.of(weight, bias, ctx.compute, *ctx.head)
            for at, part in enumerate(_parts(len(hidden), ctx.rows)):
                rows = hidden[part].to(ctx.compute)
                logits = kept[at] if kept else head.logits(rows)
                grad_wide = head.grad_product(logits, targets[part], grad_logps[part])
                grad = grad_wide.to(ctx.compute)
                if grad_hidden is not None:
                    grad_hidden[part] = grad @ head.weight
                if grad_weight is not None:
                    _add_product(grad_weight, grad.T, rows)
                if grad_bias is not None:
                    grad_bias += grad_wide.sum(dim=0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            *[None] * 5,
        )


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a second matrix where the dtypes allow it."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class _Head:
    """logits = cap(scale * (h @ W.T + b)), and the gradient of log-probabilities before cap."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None
    ) -> None:
        self.weight, self.bias, self.scale, self.softcap = weight, bias, scale, softcap

    @classmethod
    def of(
        cls,
        weight: Tensor,
        bias: Tensor | None,
        compute: torch.dtype,
        scale: float,
        softcap: float | None,
    ) -> "_Head":
        """The head in the dtype its product is computed in."""
        return cls(weight.to(compute), None if bias is None else bias.to(compute), scale, softcap)

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, V), at least float32."""
        product = torch.nn.functional.linear(hidden, self.weight, self.bias)
        logits = product.to(_at_least_float32(product.dtype))
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def grad_product(self, logits: Tensor, targets: Tensor, grad_logps: Tensor) -> Tensor:
        """(rows, V), at least float32: gradient with respect to h @ W.T + b."""
        grad = logits.softmax(dim=1).neg_()
        grad.scatter_add_(1, targets[:, None], grad.new_ones(len(grad), 1))
        grad *= grad_logps[:, None]
        if self.softcap is not None:
            grad *= (logits / self.softcap).square_().neg_().add_(1)
        if self.scale != 1.0:
            grad *= self.scale
        return grad


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _parts(total: int, rows: int) -> list[slice]:
    return [slice(at, min(at + rows, total)) for at in range(0, total, rows)]
