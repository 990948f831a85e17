"""Gradients of the vocabulary's matrices, added up where they end up.

Embedding and output head have V x D entries, often most of a small model, and are often one matrix.
Autograd makes each contribution a matrix of its own, the embedding's zero but for the few rows that
were looked up, and adds matrices; two or three of them exist beside the gradient when memory is at
its peak. Inside `gradients_in_place()` contributions are added to `weight.grad` itself.

A contribution that autograd never sees is None to the parameter's hooks, and `torch.autograd.grad`
does not find it: this is for a training step, which asks for neither. On a CPU only: on a GPU
additions by index have no fixed order, and weights are mostly narrower than their gradients' sums.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_IN_PLACE: ContextVar[bool] = ContextVar("redpencil_gradients_in_place", default=False)


@contextmanager
def gradients_in_place() -> Iterator[None]:
    """What is looked up or projected inside adds its gradient to `weight.grad`, on a CPU."""
    token = _IN_PLACE.set(True)
    try:
        yield
    finally:
        _IN_PLACE.reset(token)


def goes_in_place(weight: Tensor) -> bool:
    """Whether a gradient of this weight, of what is computed now, may go past autograd. Narrower
    than float32 it would be rounded at every addition."""
    wide = weight.dtype in (torch.float32, torch.float64)
    return _IN_PLACE.get() and wide and weight.is_leaf and weight.device.type == "cpu"


def gradient_of(weight: Tensor) -> Tensor:
    """`weight.grad`, zeros if there was none."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def install_lookup(model: nn.Module) -> int:
    """Let the model's embeddings add their gradients in place; returns how many there are."""
    plain = [m for m in model.modules() if _is_plain(m)]
    for module in plain:
        module.forward = MethodType(_forward, module)
    return len(plain)


def _is_plain(module: nn.Module) -> bool:
    """Whether its gradient is what its name says: a sum over the rows that were looked up."""
    if type(module).forward is not nn.Embedding.forward:
        return False
    return not (module.sparse or module.scale_grad_by_freq or module.max_norm)


def _forward(self: Any, input: Tensor) -> Tensor:
    if goes_in_place(self.weight) and self.weight.requires_grad and torch.is_grad_enabled():
        return _Lookup.apply(self.weight, input, self.padding_idx)
    return nn.Embedding.forward(self, input)


class _Lookup(torch.autograd.Function):
    """(V, D) weight, (...) int64 -> (..., D); rows of `padding_idx` get no gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding_idx: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding_idx = weight, padding_idx  # saved, it might not be the leaf itself
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        if ctx.padding_idx is not None:
            grad = grad.masked_fill((ids == ctx.padding_idx)[..., None], 0.0)
        gradient_of(ctx.weight).index_add_(0, ids.flatten(), grad.flatten(0, -2))
        return None, None, None
