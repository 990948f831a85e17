"""Rotary frequencies that a call chooses by its longest position.

LongRoPE (Phi-3 and its kin) has two sets of them, one for sequences within the original length and
one beyond; dynamic NTK scaling makes new ones for every length beyond. Either takes the longest
position of all that a call is given, so that a sequence's numbers would depend on its neighbours.
What may share a call is said here by a key: sequences of one key have the same frequencies. That a
call depends on nothing but its own longest position is seen to as well: transformers' dynamic
scaling keeps the frequencies of the longest call before.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from redpencil.models.head import unwrap

Key = Callable[[int], int]
"""Tokens of a whole sequence -> key; equal keys, equal frequencies."""

_FORGETS = "_redpencil_forgets"
"""Mark on a rotary embedding that has our hook."""


def frequency_key(model: nn.Module) -> Key | None:
    """What decides about a model's rotary frequencies; None where they are the same for all."""
    bounds = [
        (bound, kind) for module, kind, _ in _scaled(model) for bound in _bounds(module, kind)
    ]
    if not bounds:
        return None

    def key(tokens: int) -> int:
        """0 within all bounds; the length itself where every length has its own."""
        if any(tokens > bound and kind == "dynamic" for bound, kind in bounds):
            return tokens
        return -sum(tokens > bound for bound, _ in bounds)

    return key


def forget_longer_calls(model: nn.Module) -> int:
    """Let dynamic scaling begin every call anew; returns how many modules were new to it."""
    new = 0
    for module, kind, _ in _scaled(model):
        if kind == "dynamic" and not getattr(module, _FORGETS, False):
            setattr(module, _FORGETS, True)
            module.register_forward_pre_hook(_forget)
            new += 1
    return new


def _scaled(model: nn.Module) -> Iterator[tuple[Any, str, str | None]]:
    """(rotary embedding, "longrope" or "dynamic", kind of layer if it has several) of a model."""
    for module in unwrap(model).modules():
        named = getattr(module, "rope_type", None)
        each = named if isinstance(named, dict) else {None: named}
        for layers, kind in each.items():
            if isinstance(kind, str) and (kind == "longrope" or "dynamic" in kind):
                yield module, "longrope" if kind == "longrope" else "dynamic", layers


def _bounds(module: Any, kind: str) -> list[int]:
    """Tokens up to which sequences are within the original length."""
    if kind == "dynamic":
        return [int(module.original_max_seq_len)]
    parameters = module.config.rope_parameters
    each = [parameters, *(p for p in parameters.values() if isinstance(p, dict))]
    name = "original_max_position_embeddings"
    return [int(p[name]) for p in each if p.get(name) is not None]


def _forget(module: Any, _: Any) -> None:
    """Put back what the embedding was made with, which a longer call has replaced."""
    most = module.original_max_seq_len
    for layers in module.rope_type if isinstance(module.rope_type, dict) else (None,):
        prefix = "" if layers is None else f"{layers}_"
        if getattr(module, f"{prefix}max_seq_len_cached", most) is not most:
            original: torch.Tensor = getattr(module, f"{prefix}original_inv_freq")
            frequencies = getattr(module, f"{prefix}inv_freq")
            module.register_buffer(
                f"{prefix}inv_freq", original.to(frequencies.device), persistent=False
            )
            setattr(module, f"{prefix}max_seq_len_cached", most)
