"""Dataclasses of tensors that go to a GPU in one copy."""

from __future__ import annotations  # torch is loaded by whoever has a tensor

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ALIGNMENT = 64
"""Bytes: what a tensor of any dtype may begin at."""


class Movable:
    """A dataclass whose tensors, those of movable fields too, move between devices together."""

    __slots__ = ()

    def to(self, device: torch.device | str) -> Self:
        """On a device. Where `pinned` made it: in one copy, which nobody waits for."""
        tensors = self._tensors()
        storages = {t.untyped_storage().data_ptr() for t in tensors}
        if len(storages) == 1 and tensors[0].is_pinned():
            moved = _whole(tensors[0]).to(device, non_blocking=True)
            return self._each(lambda t: _at(moved, int(t.storage_offset()) * t.element_size(), t))
        return self._each(lambda tensor: tensor.to(device))

    def pinned(self) -> Self:
        """In one piece of page-locked memory, from which a GPU copies by itself."""
        buffer, at = page_locked(sum(map(_room, self._tensors()))), 0

        def place(tensor: Tensor) -> Tensor:
            nonlocal at
            piece = _at(buffer, at, tensor).copy_(tensor)
            at += _room(tensor)
            return piece

        return self._each(place)

    def _tensors(self) -> list[Tensor]:
        found: list[Tensor] = []

        def see(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self._each(see)
        return found

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """With every tensor changed."""
        from torch import Tensor

        changed: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = change(value)
            elif isinstance(value, Movable):
                changed[field.name] = value._each(change)
        return replace(self, **changed)  # type: ignore[type-var]


def page_locked(size: int) -> Tensor:
    """(size,) uint8, uninitialized, in memory that the system does not move."""
    import torch

    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def _room(tensor: Tensor) -> int:
    """Bytes, up to where the next tensor may begin."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _at(buffer: Tensor, at: int, like: Tensor) -> Tensor:
    """The bytes from `at` on as a tensor like another one."""
    return buffer[at : at + like.nbytes].view(like.dtype).view(like.shape)


def _whole(tensor: Tensor) -> Tensor:
    """All bytes of a tensor's storage."""
    import torch

    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
