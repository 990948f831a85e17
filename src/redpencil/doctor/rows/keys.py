"""Contents as 64-bit numbers: equal contents have equal keys, and a million rows fit in memory.

Among a million contents two different ones share a key with a chance of 1 in 37 million.
"""

import hashlib
import json
from array import array
from collections.abc import Sequence

import numpy as np

from redpencil.data.reading import ReadRow
from redpencil.data.split import prompt_key
from redpencil.types import Content, Origin, Record

_MIX = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)


def key_of(content: Content) -> int:
    """A response's key; a single assistant turn that is only text counts as that text."""
    only = content[0] if isinstance(content, tuple) and len(content) == 1 else {}
    if only.keys() == {"role", "content"} and only["role"] == "assistant":
        content = only["content"]
    if isinstance(content, str):
        raw = content.encode("utf-8", "surrogatepass")
    elif isinstance(content, np.ndarray):
        raw = b"ids" + content.astype("<i4").tobytes()
    else:
        raw = json.dumps(content, sort_keys=True, default=str).encode()
    return _hash(raw)


def prompt_of(record: Record) -> int:
    return int(prompt_key(record.prompt, record.tools)[:16], 16)


def key_of_all(values: Sequence[int]) -> int:
    return _hash(repr(tuple(values)).encode())


def mixed(prompt: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(T,) uint64 from three such arrays, whose order counts."""
    parts = zip((prompt, one, other), _MIX, strict=True)
    mix = np.zeros(len(prompt), dtype=np.uint64)
    for values, factor in parts:
        mix ^= values * np.uint64(factor)
        mix = (mix ^ (mix >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return mix


def _hash(raw: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


class Places:
    """Where rows stand: 20 bytes a row."""

    def __init__(self) -> None:
        self._place = array("Q")
        self._row = array("Q")
        self._file = array("I")
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._place)

    def add(self, read: ReadRow) -> int:
        """The row's index."""
        name = read.origin.file
        if name not in self._numbers:
            self._numbers[name] = len(self._names)
            self._names.append(name)
        self._place.append(read.place)
        self._row.append(read.origin.row)
        self._file.append(self._numbers[name])
        return len(self._place) - 1

    def origin(self, index: int) -> Origin:
        return Origin(self._names[self._file[index]], self._row[index])

    def place(self, index: int) -> int:
        """`ReadRow.place` of the row."""
        return self._place[index]
