"""Sorted tables on disk, from 16-byte keys to float32 values, looked up where they lie.

A shard is a safetensors file: `first` and `second`, (n,) uint64, the halves of the keys, sorted by
both; `values`, (n,) float32; a checksum beside them. It is written next to its final name and
renamed, so that it is whole or absent. Shards are memory-mapped: what is asked for is read, and the
system may forget it again. Opening a folder of several first makes them one.
"""

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from redpencil.console import warn

SUFFIX = ".shard"
KEY_BYTES = 16
_DTYPES = {"first": np.uint64, "second": np.uint64, "values": np.float32}
_NAMES = {"U64": np.uint64, "F32": np.float32}
"""What the format calls them."""

MERGED = "0-"
"""How the name of a merged shard begins: it holds what is older than all that is not in it."""

ATTEMPTS = 5
"""A folder is looked at again where another process made one shard of several meanwhile."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Keys in order, and what they lead to."""

    first: np.ndarray
    second: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, values: np.ndarray) -> "Shard":
        """keys: (n,) of 16-byte void, in any order, some of them more than once."""
        halves = _halves(keys)
        return cls._sorted(halves[:, 0], halves[:, 1], values.astype(np.float32))

    @classmethod
    def joined(cls, shards: Sequence["Shard"]) -> "Shard":
        columns = (np.concatenate([getattr(s, name) for s in shards]) for name in _DTYPES)
        return cls._sorted(*columns)

    @classmethod
    def _sorted(cls, first: np.ndarray, second: np.ndarray, values: np.ndarray) -> "Shard":
        order = np.lexsort((second, first))
        first, second, values = first[order], second[order], values[order]
        new = np.ones(len(first), dtype=bool)
        new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        return cls(first[new], second[new], values[new])

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """keys: (n,) of 16-byte void. Returns (n,) float32 values and (n,) bool found."""
        if not len(self.first) or not len(keys):
            return np.zeros(len(keys), dtype=np.float32), np.zeros(len(keys), dtype=bool)
        halves = _halves(keys)
        order = np.argsort(halves[:, 0])  # sorted questions are answered several times faster
        at = np.empty(len(keys), dtype=np.int64)
        at[order] = np.searchsorted(self.first, halves[order, 0])
        at = at.clip(max=len(self.first) - 1)
        # Two keys with the same first half would hide one of them: it is computed again.
        found = (self.first[at] == halves[:, 0]) & (self.second[at] == halves[:, 1])
        return np.asarray(self.values[at]), found

    def checksum(self) -> str:
        digest = hashlib.sha256()
        for name, dtype in _DTYPES.items():
            digest.update(np.ascontiguousarray(getattr(self, name), dtype=dtype).data)
        return digest.hexdigest()

    def write(self, folder: Path, name: str | None = None) -> Path:
        """name: None for one after all that were written before. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        columns = {column: getattr(self, column) for column in _DTYPES}
        scratch = folder / f".{uuid.uuid4().hex}.partial"
        name = name or f"{time.time_ns():020d}-{uuid.uuid4().hex}"
        try:
            with scratch.open("wb") as file:
                file.write(save(columns, metadata={"checksum": self.checksum()}))
                file.flush()
                os.fsync(file.fileno())
            return scratch.replace(folder / f"{name}{SUFFIX}")
        finally:
            scratch.unlink(missing_ok=True)


def open_folder(folder: Path) -> Shard:
    """All shards of a folder as one, mapped; several are merged into a new one first. Of values
    for one key the oldest counts. Damaged shards are named and not used. Where nothing can be
    written, they are merged in memory."""
    for _ in range(ATTEMPTS):
        try:
            shards = _read(folder)
        except FileNotFoundError:  # merged by another process since the folder was listed
            continue
        if len(shards) == 1:
            return next(iter(shards.values()))
        return _merged(folder, shards) if shards else _EMPTY
    warn(f"reference cache: {folder} changes too fast to be read; all of it is computed again")
    return _EMPTY


def _merged(folder: Path, shards: dict[Path, Shard]) -> Shard:
    """One shard in their place, named by what it holds: where they cannot be removed, the next one
    to open the folder makes the same."""
    joined = Shard.joined(list(shards.values()))
    path = folder / f"{MERGED}{joined.checksum()[:32]}{SUFFIX}"
    try:
        if path not in shards:
            joined.write(folder, path.name.removesuffix(SUFFIX))
        merged = _mapped(path)
    except _UNREADABLE:
        return joined
    others = [other for other in shards if other != path]
    shards.clear()  # some systems remove no file that is mapped
    for other in others:
        with contextlib.suppress(OSError):
            other.unlink(missing_ok=True)
    return merged


_EMPTY = Shard(*(np.zeros(0, dtype=dtype) for dtype in _DTYPES.values()))


_UNREADABLE = (OSError, ValueError, KeyError, TypeError)
"""What a file that is no whole shard leads to."""


def _read(folder: Path) -> dict[Path, Shard]:
    shards = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []:
        try:
            shards[path] = _mapped(path)
        except FileNotFoundError:
            raise
        except _UNREADABLE as error:
            warn(f"reference cache: {path} is damaged and not used ({error})")
    return shards


def _mapped(path: Path) -> Shard:
    """Raises one of `_UNREADABLE`."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("it does not begin as a shard does")
        header = json.loads(file.read(length))
    shard = Shard(*(_column(path, header[name], 8 + length) for name in _DTYPES))
    if not len(shard.first) == len(shard.second) == len(shard.values):
        raise ValueError(f"{len(shard.first)} keys and {len(shard.values)} values")
    if header.get("__metadata__", {}).get("checksum") != shard.checksum():
        raise ValueError("its checksum is wrong")
    return shard


def _column(path: Path, entry: Mapping[str, Any], data: int) -> np.ndarray:
    dtype: Any = _NAMES[entry["dtype"]]
    (count,), (start, _) = entry["shape"], entry["data_offsets"]
    if not count:  # nothing can be mapped
        return np.zeros(0, dtype=dtype)
    column: np.ndarray = np.memmap(path, dtype, mode="r", offset=data + start, shape=(count,))
    return column


def _halves(keys: np.ndarray) -> np.ndarray:
    """(n, 2) uint64, the same 16 bytes as two numbers: void values have no order."""
    return np.ascontiguousarray(keys).view(np.uint8).view(np.uint64).reshape(-1, 2)
