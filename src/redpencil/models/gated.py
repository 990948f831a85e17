"""Gated MLPs that hold two activations for the backward pass where transformers' hold four.

Of down(act(gate) * up) autograd saves gate, act(gate), up and the product. The second and the
fourth are an elementwise operation or two away from the others: they are made again in the backward
pass, bit for bit. With the usual widths that is about a quarter of all that a decoder saves, for a
hundredth or two of the time. Activation checkpointing does the same to whole layers, and takes its
place.
"""

import inspect
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers.activations import ACT2FN

from redpencil.models.native.elementwise import silu_product, takes

_FORWARD = "self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"
"""What the forward of such a module must say, in these words, for ours to take its place."""


_SILU = (nn.SiLU, type(ACT2FN["silu"]))
"""The gate that is compiled, by torch's name and transformers'."""


def hold_fewer_activations(model: nn.Module) -> int:
    """Let the model's gated MLPs make two activations again; returns how many MLPs there are."""
    gated = [module for module in model.modules() if _is_gated(type(module))]
    for module in gated:
        module.forward = MethodType(_forward, module)
    return len(gated)


def hold_all_activations(model: nn.Module) -> None:
    """Give the modules their own forward back."""
    for module in model.modules():
        if getattr(module.__dict__.get("forward"), "__func__", None) is _forward:
            del module.forward


def _is_gated(kind: type[nn.Module]) -> bool:
    if "forward" not in vars(kind):
        return False
    try:
        return _FORWARD in inspect.getsource(kind.forward)
    except (OSError, TypeError):  # a class without source
        return False


def _forward(self: Any, x: Tensor) -> Tensor:
    gate, up = self.gate_proj(x), self.up_proj(x)
    if isinstance(self.act_fn, _SILU) and takes(gate) and takes(up):
        return _compiled(self, gate, up)
    activated = self.act_fn(gate)
    if not torch.is_grad_enabled():
        return self.down_proj(activated * up)
    remade = _Remade(self.act_fn, gate.detach(), up.detach())
    with saved_tensors_hooks(remade.pack, remade.unpack):
        remade.activated = _storage(activated)
        product = activated * up
        remade.product = _storage(product)
        return self.down_proj(product)


def _compiled(self: Any, gate: Tensor, up: Tensor) -> Tensor:
    """The product by one kernel, which holds gate and up: what is left to make again is the product
    that the projection behind it would hold."""
    product = silu_product(gate, up)
    if not torch.is_grad_enabled():
        return self.down_proj(product)
    made, gate, up = _storage(product), gate.detach(), up.detach()

    def pack(tensor: Tensor) -> Tensor | torch.Size:
        whole = tensor.is_contiguous() and tensor.numel() == gate.numel()
        return tensor.shape if whole and _storage(tensor) == made else tensor

    def unpack(packed: Tensor | torch.Size) -> Tensor:
        return packed if isinstance(packed, Tensor) else silu_product(gate, up).view(packed)

    with saved_tensors_hooks(pack, unpack):
        return self.down_proj(product)


def _storage(tensor: Tensor) -> int:
    """What tells storages apart, those of fake tensors too; valid while the tensor lives."""
    return tensor.untyped_storage()._cdata


class _Remade:
    """Saves neither `activated` nor `product`, which are named by their storages."""

    activated: int | None = None
    product: int | None = None

    def __init__(self, act: nn.Module, gate: Tensor, up: Tensor) -> None:
        self._act, self._gate, self._up = act, gate, up
        self._made: Tensor | None = None

    def pack(self, tensor: Tensor) -> Tensor | tuple[str, torch.Size]:
        whole = tensor.is_contiguous() and tensor.numel() == self._gate.numel()
        if whole and _storage(tensor) == self.product:
            return "product", tensor.shape
        if whole and _storage(tensor) == self.activated:
            return "activated", tensor.shape
        return tensor

    @torch.no_grad()
    def unpack(self, packed: Tensor | tuple[str, torch.Size]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        name, shape = packed
        if name == "product":  # asked for first: its factor is needed right after it
            self._made = self._act(self._gate)
            return (self._made * self._up).view(shape)
        made, self._made = self._made, None
        return (self._act(self._gate) if made is None else made).view(shape)
