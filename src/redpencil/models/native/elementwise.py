"""What lies between a layer's matrix products, compiled: gates of MLPs, RMS norms, rotations.

Each takes one pass over memory where torch's operations take two to nine. float32 on a CPU, rows a
whole number of vectors wide (`takes`).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from redpencil.models.native import rows
from redpencil.models.native.check import refusal
from redpencil.models.native.kernel import VECTOR


def takes(x: Tensor) -> bool:
    """Whether rows like these are computed here, on this machine."""
    plain = x.dtype == torch.float32 and x.is_contiguous() and x.device.type == "cpu"
    return plain and x.numel() > 0 and x.shape[-1] % VECTOR == 0 and refusal() is None


def silu_product(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise; holds both for the backward pass."""
    product: Tensor = _SiluProduct.apply(gate, up)
    return product


class _SiluProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return _gated_backward(grad.contiguous(), *ctx.saved_tensors)


class CompiledRmsNorm(torch.autograd.Function):
    """(..., D) input, (D,) weight, epsilon -> (..., D): weight * x / sqrt(mean(x^2) + epsilon).
    Holds the input and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, scale = _rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        of_weight = ctx.needs_input_grad[1]
        grads = _rms_norm_backward(grad.contiguous(), *ctx.saved_tensors, of_weight)
        return grads[0], grads[1] if of_weight else None, None


class Rotated(torch.autograd.Function):
    """(N, H, D) input, cosine and sine (N, D) -> (N, H, D): x * cosine + (-x2, x1) * sine. Cosine
    and sine get no gradient. Heads of a multiple of 2 VECTOR."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _rotate(x, cosine, sine, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _rotate(grad.contiguous(), *ctx.saved_tensors, True), None, None


# Operations of torch's own kind, so that a step can be tried on tensors without data (fake ones).


@torch.library.custom_op("redpencil::gated", mutates_args=(), device_types="cpu")
def _gated(gate: Tensor, up: Tensor) -> Tensor:
    product = torch.empty_like(gate)
    rows.gate(**_arrays(gate=gate, up=up, product=product))
    return product


@_gated.register_fake
def _(gate: Tensor, up: Tensor) -> Tensor:
    return torch.empty_like(gate)


@torch.library.custom_op("redpencil::gated_backward", mutates_args=(), device_types="cpu")
def _gated_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    arrays = _arrays(grad=grad, gate=gate, up=up, grad_gate=grad_gate, grad_up=grad_up)
    rows.gate(**arrays)
    return grad_gate, grad_up


@_gated_backward.register_fake
def _(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(gate), torch.empty_like(up)


@torch.library.custom_op("redpencil::rms_norm", mutates_args=(), device_types="cpu")
def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm, and (...,) float32 scales."""
    out, scale = torch.empty_like(x), x.new_empty(x.shape[:-1])
    rows.norm(eps, **_arrays(x=x, weight=weight, out=out, scale=scale))
    return out, scale


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[:-1])


@torch.library.custom_op("redpencil::rms_norm_backward", mutates_args=(), device_types="cpu")
def _rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, of_weight: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of input and weight, the latter empty where it is not wanted."""
    of_x = torch.empty_like(x)
    arrays = _arrays(x=x, weight=weight, scale=scale, grad=grad, grad_x=of_x)
    if not of_weight:
        rows.norm(0.0, **arrays)
        return of_x, weight.new_empty(0)
    pieces = x.new_empty(rows.pieces(scale.numel(), x.shape[-1]), x.shape[-1])
    rows.norm(0.0, **arrays, grad_weight=pieces.numpy())
    return of_x, pieces.sum(0)


@_rms_norm_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, of_weight: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight) if of_weight else weight.new_empty(0)


@torch.library.custom_op("redpencil::rotate", mutates_args=(), device_types="cpu")
def _rotate(x: Tensor, cosine: Tensor, sine: Tensor, back: bool) -> Tensor:
    out = torch.empty_like(x)
    rows.rotate(back=back, **_arrays(x=x, cosine=cosine, sine=sine, out=out))
    return out


@_rotate.register_fake
def _(x: Tensor, cosine: Tensor, sine: Tensor, back: bool) -> Tensor:
    return torch.empty_like(x)


def _arrays(**tensors: Tensor) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
