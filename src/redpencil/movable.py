"""Dataclasses of tensors that go to a GPU in one copy."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes: what a tensor of any dtype may begin at."""


class Movable:
    """A dataclass whose tensors, those of movable fields too, move between devices together."""

    __slots__ = ()

    def to(self, device: torch.device | str) -> Self:
        """On a device. Where `pinned` made it: in one copy, which nobody waits for."""
        tensors = list(self._tensors())
        storages = {t.untyped_storage().data_ptr() for t in tensors}
        if len(storages) == 1 and tensors[0].is_pinned():
            return self._viewed(_whole(tensors[0]).to(device, non_blocking=True), tensors)
        return self._each(lambda tensor: tensor.to(device))

    def pinned(self) -> Self:
        """In one piece of page-locked memory, from which a GPU copies by itself."""
        tensors, size = list(self._tensors()), 0
        for tensor in tensors:
            size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        buffer, at = page_locked(size), 0
        placed: list[Tensor] = []
        for tensor in tensors:
            piece = buffer[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            placed.append(piece.copy_(tensor))
            at += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        following = iter(placed)
        return self._each(lambda _: next(following))

    def _viewed(self, buffer: Tensor, tensors: list[Tensor]) -> Self:
        """The same with the tensors at their places in a copy of their storage."""

        def view(tensor: Tensor) -> Tensor:
            at = tensor.storage_offset() * tensor.element_size()
            return buffer[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape)

        return self._each(view)

    def _tensors(self) -> Iterator[Tensor]:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, Movable):
                yield from value._tensors()

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """With every tensor changed, in the order of `_tensors`."""
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
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def _whole(tensor: Tensor) -> Tensor:
    """All bytes of a tensor's storage."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
