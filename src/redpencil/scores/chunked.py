"""Log-probabilities of scored tokens, block by block: full logits never exist, forward or backward.

Blocks are cut along the vocabulary, all scored tokens side by side where they fit: a block of the
weight is then read once, its gradient written once, and only the gradient of the hidden states is
summed over blocks. (Cut along the tokens, the whole gradient of the weight would be read and
written again for each block.) The normalizer is a running log-sum-exp over the blocks.

S: scored tokens. D: width. V: vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from redpencil.models.vocabulary import goes_in_place, gradient_of

CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 25}
"""Logits of a block by device. 16 MiB in float32: a CPU's cache may hold it. A GPU needs wider
products to be busy between two launches: 128 MiB. Backward has a few blocks at once."""

KEPT_ELEMENTS = 1 << 25
"""Up to this many logits (128 MiB) are kept for backward; those of further blocks are computed
again, which costs a quarter of the head's time."""

FEWEST_COLUMNS = 1024
"""A block is this wide or wider; where all tokens do not fit beside that, they go in groups."""


def chunked_logps(
    hidden_SD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    target_ids_S: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    chunk_elements: int | None = None,
) -> Tensor:
    """log softmax(cap(scale * (hidden @ weight.T + bias)))[target], (S,) float32.

    hidden_SD: (S, D). weight_VD: (V, D). bias_V: (V,) or None. target_ids_S: (S,) int64.
    cap(x) = softcap * tanh(x / softcap). Float64 inputs give float64. Differentiable in hidden,
    weight and bias; gradients are summed in float32 over the blocks, then rounded to the dtype of
    what they belong to once; the weight's goes past autograd inside `gradients_in_place`. Under
    autocast the products run in its dtype, everything after them in float32.
    """
    elements = chunk_elements or CHUNK_ELEMENTS.get(hidden_SD.device.type, CHUNK_ELEMENTS["cpu"])
    out: Tensor = _ChunkedLogps.apply(
        hidden_SD,
        weight_VD,
        bias_V,
        target_ids_S,
        scale,
        softcap,
        elements,
        torch.is_grad_enabled(),
    )
    return out


def all_logps(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    *,
    compute: torch.dtype,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """(R, V) log-probabilities of all entries, of as few tokens as the memory takes, no gradient.

    compute: dtype of the product (`product_dtype`).
    """
    with torch.no_grad(), torch.autocast(hidden_RD.device.type, enabled=False):
        logits = _Head(weight_VD, bias_V, compute, scale, softcap).logits(hidden_RD, slice(None))
        return torch.log_softmax(logits, dim=1)


def product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """In which the head's product runs: autocast's, as the model's own head would, or their own."""
    if torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    return torch.promote_types(hidden.dtype, weight.dtype)


class _ChunkedLogps(torch.autograd.Function):
    """Blocks through the head. With p = softmax(logits), d logp_t / d logits = onehot_t - p."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        elements: int,
        training: bool,
    ) -> Tensor:
        compute = product_dtype(hidden, weight)
        wide = _at_least_float32(compute)
        chosen = hidden.new_empty(len(hidden), dtype=wide)
        normalizer = hidden.new_full((len(hidden),), -torch.inf, dtype=wide)
        kept: list[Tensor] = []
        room = KEPT_ELEMENTS if training else 0
        with torch.autocast(hidden.device.type, enabled=False):  # dtypes are explicit in here
            head = _Head(weight, bias, compute, scale, softcap)
            for rows, columns in _blocks(len(hidden), len(weight), elements):
                logits = head.logits(hidden[rows], columns)
                normalizer[rows] = torch.logaddexp(normalizer[rows], logits.logsumexp(dim=1))
                at, inside = _within(targets[rows], columns)
                picked = logits.gather(1, at[:, None])[:, 0]
                chosen[rows] = torch.where(inside, picked, chosen[rows])
                room -= logits.numel()
                if room >= 0:
                    kept.append(logits)
        # The parameter itself: what is saved comes back as another tensor under some hooks.
        ctx.parameter = weight if goes_in_place(weight) and weight.dtype == wide else None
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer, *kept)
        ctx.head, ctx.elements = (compute, scale, softcap), elements
        return chosen - normalizer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizer, *kept = ctx.saved_tensors
        wide = normalizer.dtype
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        in_place = for_weight and ctx.parameter is not None
        grads = [
            torch.zeros_like(t, dtype=wide) if needed else None
            for t, needed in (
                (hidden, for_hidden), (weight, for_weight and not in_place), (bias, for_bias)
            )
        ]  # fmt: skip
        grad_hidden, grad_weight, grad_bias = grads
        if in_place:
            grad_weight = gradient_of(ctx.parameter)
        with torch.autocast(hidden.device.type, enabled=False):
            head = _Head(weight, bias, *ctx.head)
            blocks = _blocks(len(hidden), len(weight), ctx.elements)
            for i, (rows, columns) in enumerate(blocks):
                logits = kept[i] if i < len(kept) else head.logits(hidden[rows], columns)
                grad = head.grad_product(
                    logits, normalizer[rows], *_within(targets[rows], columns), grad_logps[rows]
                )
                if grad_bias is not None:
                    grad_bias[columns] += grad.sum(dim=0)
                grad = grad.to(head.compute)
                if grad_hidden is not None:
                    _add_product(grad_hidden[rows], grad, head.weight(columns))
                if grad_weight is not None:
                    _add_product(grad_weight[columns], grad.T, hidden[rows].to(head.compute))
        return (
            *(
                None if grad is None else grad.to(t.dtype)
                for grad, t in zip(grads, (hidden, weight, bias), strict=True)
            ),
            *[None] * 5,
        )


def _blocks(rows: int, columns: int, elements: int) -> Iterator[tuple[slice, slice]]:
    """(scored tokens, vocabulary entries) of each block, at most `elements` logits."""
    height = max(1, min(rows, elements // min(FEWEST_COLUMNS, columns)))
    width = max(1, elements // height)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, min(top + height, rows)), slice(left, min(left + width, columns))


def _within(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Each target's index among the columns, (S,), clamped, and whether it is there, (S,) bool."""
    at = targets - columns.start
    width = columns.stop - columns.start
    return at.clamp(0, width - 1), (at >= 0) & (at < width)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a second matrix where the dtypes allow it."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class _Head:
    """logits = cap(scale * (h @ W.T + b)), and the gradient of log-probabilities before cap."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        compute: torch.dtype,
        scale: float,
        softcap: float | None,
    ) -> None:
        self._weight, self._bias, self.compute = weight, bias, compute
        self._scale, self._softcap = scale, softcap

    def weight(self, columns: slice) -> Tensor:
        """(width, D) in the dtype that products are computed in."""
        return self._weight[columns].to(self.compute)

    def logits(self, hidden: Tensor, columns: slice) -> Tensor:
        """(rows, width), at least float32."""
        bias = None if self._bias is None else self._bias[columns].to(self.compute)
        product = torch.nn.functional.linear(hidden.to(self.compute), self.weight(columns), bias)
        logits = product.to(_at_least_float32(product.dtype))
        if self._scale != 1.0:
            logits *= self._scale
        if self._softcap is not None:
            logits.div_(self._softcap).tanh_().mul_(self._softcap)
        return logits

    def grad_product(
        self, logits: Tensor, normalizer: Tensor, at: Tensor, inside: Tensor, grad_logps: Tensor
    ) -> Tensor:
        """(rows, width), at least float32: gradient with respect to h @ W.T + b."""
        grad = (logits - normalizer[:, None]).exp_().mul_(-grad_logps[:, None])
        grad.scatter_add_(1, at[:, None], (grad_logps * inside)[:, None])
        if self._softcap is not None:
            grad *= (logits / self._softcap).square_().neg_().add_(1)
        if self._scale != 1.0:
            grad *= self._scale
        return grad


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
