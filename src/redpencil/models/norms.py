"""RMS norms with a backward pass of their own: fewer passes over memory, and half as much held.

transformers writes the norm as five elementwise operations. Autograd then saves the normalized
input beside the input, and walks back through each. Here the input and one number a token are
saved, and the gradient is written down:

    y = w * n,  n = x * s,  s = 1 / sqrt(mean(x^2) + eps)
    dL/dx = s * (g - n * mean(g * n)),  g = w * dL/dy;   dL/dw = sum over tokens of n * dL/dy

Without a compiled kernel the forward pass is transformers' own, operation by operation.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from redpencil.models.native.elementwise import CompiledRmsNorm, takes
from redpencil.models.source import says

_FORWARD = """
input_dtype = hidden_states.dtype
hidden_states = hidden_states.to(torch.float32)
variance = hidden_states.pow(2).mean(-1, keepdim=True)
hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
return self.weight * hidden_states.to(input_dtype)
"""
"""What the forward of such a module must say, for ours to take its place."""


def install_norms(model: nn.Module) -> int:
    """Give the model's RMS norms this backward pass; returns how many there are."""
    norms = [m for m in model.modules() if says(vars(type(m)).get("forward"), _FORWARD, takes=1)]
    for module in norms:
        module.forward = MethodType(_forward, module)
    return len(norms)


def _forward(self: Any, hidden_states: Tensor) -> Tensor:
    if self.weight.shape != hidden_states.shape[-1:]:
        return type(self).forward(self, hidden_states)
    compiled = takes(hidden_states) and takes(self.weight)
    norm = CompiledRmsNorm if compiled else _RmsNorm
    out: Tensor = norm.apply(hidden_states, self.weight, self.variance_epsilon)
    return out


class _RmsNorm(torch.autograd.Function):
    """(..., D) input, (D,) weight -> (..., D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.float32)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        normal = x.to(torch.float32) * scale
        of_weight = None
        if ctx.needs_input_grad[1]:
            summed = (grad * normal.to(x.dtype)).flatten(0, -2).sum(0)
            of_weight = summed.to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None
        inner = (grad * weight).to(torch.float32)
        mean = (inner * normal).mean(-1, keepdim=True)
        of_x = inner.sub_(normal.mul_(mean)).mul_(scale)
        return of_x.to(x.dtype), of_weight, None
