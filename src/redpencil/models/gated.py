"""Gated MLPs that hold two activations for the backward pass where transformers' hold four.

Of down(act(gate) * up) autograd saves gate, act(gate), up and the product. The second and the
fourth are an elementwise operation or two away from the others: they are made again in the backward
pass. With the usual widths that is about a quarter of all that a decoder saves, for a hundredth or
two of the time. Activation checkpointing does the same to whole layers, and takes its place.

Where the kernel for silu(gate) * up is compiled, it makes the product both times; elsewhere torch's
operations do, and gradients are transformers' own, bit for bit.
"""

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from transformers.activations import ACT2FN

from redpencil.models.native.elementwise import silu_product, takes
from redpencil.models.source import says

_PROJECTED = "self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"
_FORWARDS = (f"down_proj = {_PROJECTED}\nreturn down_proj", f"return {_PROJECTED}")
"""What the forward of such a module must say, one or the other, for ours to take its place."""

_SILU = (nn.SiLU, type(ACT2FN["silu"]))
"""The gate that is compiled, by torch's name and transformers'."""


def hold_fewer_activations(model: nn.Module) -> int:
    """Let the model's gated MLPs make two activations again; returns how many MLPs there are."""
    gated = [module for module in model.modules() if _is_gated(module)]
    for module in gated:
        module.forward = MethodType(_forward, module)
    return len(gated)


def hold_all_activations(model: nn.Module) -> None:
    """Give the modules their own forward back."""
    for module in model.modules():
        if getattr(module.__dict__.get("forward"), "__func__", None) is _forward:
            del module.forward


def _is_gated(module: Any) -> bool:
    """Whether it says what ours says, and its gate has no weights of its own to be trained."""
    if not says(vars(type(module)).get("forward"), *_FORWARDS, takes=1):
        return False
    return isinstance(module.act_fn, nn.Module) and not list(module.act_fn.parameters())


def _forward(self: Any, x: Tensor) -> Tensor:
    gate, up = self.gate_proj(x), self.up_proj(x)
    if gate.shape != up.shape:
        return self.down_proj(self.act_fn(gate) * up)
    if type(self.act_fn) in _SILU and takes(gate) and takes(up):
        return _projected(self.down_proj, silu_product, gate, up)
    return _projected(self.down_proj, partial(_Product.apply, self.act_fn), gate, up)


def _projected(
    down: nn.Module, multiply: Callable[[Tensor, Tensor], Tensor], gate: Tensor, up: Tensor
) -> Tensor:
    """down(multiply(gate, up)), which holds gate and up and makes the product again."""
    product = multiply(gate, up)
    if not torch.is_grad_enabled():
        return down(product)
    made, gate, up = _storage(product), gate.detach(), up.detach()

    def pack(tensor: Tensor) -> Tensor | torch.Size:
        whole = tensor.is_contiguous() and tensor.numel() == gate.numel()
        return tensor.shape if whole and _storage(tensor) == made else tensor

    def unpack(packed: Tensor | torch.Size) -> Tensor:
        return packed if isinstance(packed, Tensor) else multiply(gate, up).view(packed)

    with saved_tensors_hooks(pack, unpack):
        return down(product)


def _storage(tensor: Tensor) -> int:
    """What tells storages apart, those of fake tensors too; valid while the tensor lives."""
    return tensor.untyped_storage()._cdata


class _Product(torch.autograd.Function):
    """act(gate) * up, elementwise; holds both for the backward pass."""

    @staticmethod
    def forward(ctx: Any, act: nn.Module, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        kind = gate.device.type
        ctx.act, ctx.kind, ctx.cast = act, kind, torch.is_autocast_enabled(kind)
        return act(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        dtype = torch.get_autocast_dtype(ctx.kind)
        with torch.enable_grad(), torch.autocast(ctx.kind, dtype=dtype, enabled=ctx.cast):
            again = gate.detach().requires_grad_()
            activated = ctx.act(again)
        (of_gate,) = torch.autograd.grad(activated, again, grad * up)
        return None, of_gate, grad * activated.detach()
