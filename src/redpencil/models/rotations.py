"""Rotary positions in one pass over memory, where the kernels are compiled.

transformers' attention modules rotate queries and keys by a function of their own file,
`apply_rotary_pos_emb`, in nine passes forward and backward. Where that function says what is
written here, a module's forward is its own code with ours under that name: the file is left alone.
"""

import inspect
from functools import cache
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from redpencil.models.native.elementwise import Rotated, takes
from redpencil.models.native.kernel import VECTOR
from redpencil.models.source import says

_NAME = "apply_rotary_pos_emb"
_ROTATION = """
cos = cos.unsqueeze(unsqueeze_dim)
sin = sin.unsqueeze(unsqueeze_dim)
q_embed = (q * cos) + (rotate_half(q) * sin)
k_embed = (k * cos) + (rotate_half(k) * sin)
return q_embed, k_embed
"""
_HALF = """
x1 = x[..., : x.shape[-1] // 2]
x2 = x[..., x.shape[-1] // 2 :]
return torch.cat((-x2, x1), dim=-1)
"""
"""The bodies of that function and of the one it calls, for ours to take its place."""


def install_rotations(model: nn.Module) -> int:
    """Let the model's attention modules rotate by ours; returns how many there are."""
    rotating = 0
    for module in model.modules():
        kind: Any = type(module)
        forward = _forward_of(kind)
        if forward is not None:
            module.forward = MethodType(forward, module)
            rotating += 1
    return rotating


@cache
def _forward_of(kind: Any) -> FunctionType | None:
    """A class's forward with our rotation under its name; None where it is not just that one."""
    forward = vars(kind).get("forward")
    if not isinstance(forward, FunctionType) or hasattr(forward, "__wrapped__"):
        return None
    theirs = forward.__globals__.get(_NAME)
    if theirs is None or _NAME not in forward.__code__.co_names:
        return None
    half = forward.__globals__.get("rotate_half")
    if not (says(theirs, _ROTATION) and _heads_stand_second(theirs) and says(half, _HALF)):
        return None

    def rotate(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any
    ) -> tuple[Tensor, Tensor]:
        if more or named or not all(_fits(x, cos, sin) for x in (q, k)):
            rotated: tuple[Tensor, Tensor] = theirs(q, k, cos, sin, *more, **named)
            return rotated
        return _rotated(q, cos, sin), _rotated(k, cos, sin)

    names = {**forward.__globals__, _NAME: rotate}
    ours = FunctionType(
        forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
    )
    ours.__kwdefaults__ = forward.__kwdefaults__
    return ours


def _heads_stand_second(function: Any) -> bool:
    """Whether that is where it expects them, unless it is told otherwise."""
    expected = inspect.signature(function).parameters.get("unsqueeze_dim")
    return expected is not None and expected.default == 1


def _fits(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """x: (B, H, N, D), of whole vectors in each half, and (B, N, H, D) in memory."""
    plain = x.shape[-1] % (2 * VECTOR) == 0 and takes(x.transpose(1, 2))
    positions = (x.shape[0], x.shape[2], x.shape[3])
    return plain and takes(cos) and takes(sin) and cos.shape == sin.shape == positions


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    rows = x.transpose(1, 2)
    out: Tensor = Rotated.apply(rows.flatten(0, 1), cos.flatten(0, 1), sin.flatten(0, 1))
    return out.view(rows.shape).transpose(1, 2)
