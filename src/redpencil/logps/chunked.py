"""Log-probabilities of scored tokens, in chunks: full logits never exist, forward or backward."""

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24
"""Logits that exist at once, rows x vocabulary: 64 MiB in float32."""


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
    cap(x) = softcap * tanh(x / softcap). Differentiable in hidden, weight and bias; backward
    computes each chunk's logits again rather than keeping them.
    """
    rows = max(1, chunk_elements // weight_VD.shape[0])
    out: Tensor = _ChunkedLogps.apply(
        hidden_SD, weight_VD, bias_V, target_ids_S, scale, softcap, rows
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
    ) -> Tensor:
        # Under autocast the product runs in its dtype, as the model's own head would.
        if torch.is_autocast_enabled(hidden.device.type):
            compute = torch.get_autocast_dtype(hidden.device.type)
        else:
            compute = torch.promote_types(hidden.dtype, weight.dtype)
        head = _Head(weight.to(compute), None if bias is None else bias.to(compute), scale, softcap)
        logps = hidden.new_empty(len(hidden), dtype=_at_least_float32(compute))
        for part in _parts(len(hidden), rows):
            logits = head.logits(hidden[part].to(compute))
            chosen = logits.gather(1, targets[part, None])[:, 0]
            logps[part] = chosen - logits.logsumexp(dim=1)
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.head, ctx.compute, ctx.rows = (scale, softcap), compute, rows
        return logps

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        (grad_logps,) = grads
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        head = _Head(
            weight.to(ctx.compute), None if bias is None else bias.to(ctx.compute), *ctx.head
        )
        wide = _at_least_float32(ctx.compute)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if needs_bias else None
        for part in _parts(len(hidden), ctx.rows):
            rows = hidden[part].to(ctx.compute)
            grad = head.grad_product(rows, targets[part], grad_logps[part])
            if grad_hidden is not None:
                grad_hidden[part] = grad @ head.weight
            if grad_weight is not None:
                grad_weight += grad.T @ rows
            if grad_bias is not None:
                grad_bias += grad.sum(dim=0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


class _Head:
    """logits = cap(scale * (h @ W.T + b)), and the gradient of log-probabilities before cap."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None
    ) -> None:
        self.weight, self.bias, self.scale, self.softcap = weight, bias, scale, softcap

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, V), at least float32."""
        product = torch.nn.functional.linear(hidden, self.weight, self.bias)
        logits = product.to(_at_least_float32(product.dtype))
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def grad_product(self, hidden: Tensor, targets: Tensor, grad_logps: Tensor) -> Tensor:
        """(rows, V): gradient with respect to h @ W.T + b, in the compute dtype."""
        logits = self.logits(hidden)
        grad = logits.softmax(dim=1).neg_()
        grad.scatter_add_(1, targets[:, None], torch.ones_like(grad_logps)[:, None].to(grad.dtype))
        grad *= grad_logps[:, None]
        if self.softcap is not None:
            grad *= 1 - (logits / self.softcap).square()
        if self.scale != 1.0:
            grad *= self.scale
        return grad.to(hidden.dtype)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _parts(total: int, rows: int) -> list[slice]:
    return [slice(at, min(at + rows, total)) for at in range(0, total, rows)]
