"""The next batches are laid while the model computes on this one."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made", covariant=True)

DEPTH = 2
"""Batches that wait: one to be taken, one in the making."""


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


class _End:
    pass


class Closing(Protocol[Made]):
    """An iterator that is closed when no more is wanted of it."""

    def __next__(self) -> Made: ...
    def close(self) -> None: ...


class InTurn(Generic[Item]):
    """Iterates over what `items` yields, made when it is asked for: where what comes next depends
    on what was done with what came before. `finish` is applied to each item."""

    def __init__(self, items: Iterator[Item], finish: Callable[[Item], Item] | None = None) -> None:
        self._items, self._finish = items, finish

    def __next__(self) -> Item:
        item = next(self._items)
        return self._finish(item) if self._finish else item

    def close(self) -> None:
        """Nothing runs on by itself."""


class Prefetched(Generic[Item]):
    """Iterates over what `items` yields, made by a thread up to `DEPTH` ahead.

    Same items, same order; an error is raised where its item would have come. `finish` is applied
    to each item in the thread (pinning its memory). Close it, or use it as a context manager:
    the thread then ends with the item it is making.
    """

    def __init__(self, items: Iterator[Item], finish: Callable[[Item], Item] | None = None) -> None:
        self._ready: queue.Queue[Item | _Failed | _End] = queue.Queue(maxsize=DEPTH)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._make, args=(items, finish), daemon=True)
        self._thread.start()

    def __iter__(self) -> "Prefetched[Item]":
        return self

    def __next__(self) -> Item:
        item = self._ready.get()
        if isinstance(item, _Failed):
            raise item.error
        if isinstance(item, _End):
            self._ready.put(item)  # and so for whoever asks again
            raise StopIteration
        return item

    def __enter__(self) -> "Prefetched[Item]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and drop what waits."""
        self._closed.set()
        while self._thread.is_alive():
            try:  # a full queue would hold the thread
                self._ready.get(timeout=0.01)
            except queue.Empty:
                continue

    def _make(self, items: Iterator[Item], finish: Callable[[Item], Item] | None) -> None:
        try:
            for item in items:
                self._ready.put(finish(item) if finish else item)
                if self._closed.is_set():
                    return
            self._ready.put(_End())
        except BaseException as error:  # raised again where the item is asked for
            self._ready.put(_Failed(error))
