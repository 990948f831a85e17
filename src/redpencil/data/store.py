"""Examples on disk: of memory, a data set takes some tens of bytes an example.

As Python objects an example of a pair takes kilobytes more than its token ids. Here each is a run
of bytes in a scratch file without a name, which is gone with the process however that ends, and is
made anew whenever it is asked for. In memory stay where it lies, its counts and two hashes.

    store = Store()                                  examples are appended
    train = Examples(store, rows, join_prompts=True) a sequence over some of them, numbered
"""

import tempfile
import threading
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Self, overload

import numpy as np

from redpencil.data.group import first_of_group, join_responses
from redpencil.data.serial import from_bytes, to_bytes
from redpencil.errors import DataError
from redpencil.types import Example

KEY_BYTES = 16


class Store:
    """Examples in the order in which they were appended. Several threads may read."""

    def __init__(self, examples: Iterable[Example] = ()) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (as long as the store)
        self._lock = threading.Lock()
        self._files: dict[str, int] = {}
        self._names: list[str] = []
        self._begins = array("q", [0])
        self._responses = array("q")
        self._comparisons = array("q")
        self._prompts = bytearray()
        self._keys = bytearray()
        for example in examples:
            self.append(example)

    def __len__(self) -> int:
        return len(self._responses)

    def append(self, example: Example) -> None:
        """Keep an example; `response_base` is not kept, for `Examples` numbers anew.

        Raises DataError where the disk is full.
        """
        content = to_bytes(example, self._files)
        self._names = list(self._files) if len(self._files) > len(self._names) else self._names
        self._write(content)
        self._begins.append(self._begins[-1] + len(content))
        self._responses.append(len(example.responses))
        self._comparisons.append(len(example.comparisons))
        key = bytes.fromhex(example.prompt_key)
        assert len(key) == KEY_BYTES, f"a prompt's key has 32 hex digits: {example.prompt_key!r}"
        self._keys += key
        self._prompts += blake2b(example.prompt_ids.tobytes(), digest_size=KEY_BYTES).digest()

    def _write(self, content: bytes) -> None:
        try:
            with self._lock:
                self._file.seek(self._begins[-1])
                written = self._file.write(content)
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            if written == len(content):
                return
            reason = "the disk is full"
        raise DataError(
            f"the tokenized data cannot be kept in {tempfile.gettempdir()} ({reason}, after "
            f"{self._begins[-1] / 2**20:,.0f} MiB); name a larger folder by TMPDIR"
        )

    def __getitem__(self, index: int) -> Example:
        begin, end = self._begins[index], self._begins[index + 1]
        with self._lock:
            self._file.seek(begin)
            content = self._file.read(end - begin)
        assert len(content) == end - begin, f"{len(content)} of {end - begin} bytes were read"
        key = self._keys[index * KEY_BYTES : (index + 1) * KEY_BYTES].hex()
        return from_bytes(bytearray(content), self._names, key)

    @property
    def responses(self) -> np.ndarray:
        """(examples,) int64, responses of each."""
        return np.array(self._responses, dtype=np.int64)

    @property
    def comparisons(self) -> np.ndarray:
        """(examples,) int64, comparisons of each."""
        return np.array(self._comparisons, dtype=np.int64)

    @property
    def prompt_keys(self) -> np.ndarray:
        """(examples,) of 16 bytes: `Example.prompt_key`, of the prompt before truncation."""
        return np.frombuffer(bytes(self._keys), dtype=f"S{KEY_BYTES}")

    @property
    def prompt_hashes(self) -> np.ndarray:
        """(examples,) of 16 bytes: equal where the prompts' token ids are equal."""
        return np.frombuffer(bytes(self._prompts), dtype=f"S{KEY_BYTES}")


class Examples(Sequence[Example]):
    """Examples of a store in order, their responses numbered 0, 1, 2, ... through all of them.

    rows: indices into the store. join_prompts: those with equal prompt ids make one example, as in
    `group_by_prompt`. Slices are lists.
    """

    def __init__(self, store: Store, rows: np.ndarray, *, join_prompts: bool = False) -> None:
        self._store = store
        self._rows = rows
        sizes = store.responses[rows]
        if join_prompts:
            first = first_of_group(store.prompt_hashes[rows], sizes)
            order = np.argsort(first, kind="stable")
            self._rows, sizes, first = rows[order], sizes[order], first[order]
            begins = np.flatnonzero(np.diff(first, prepend=-1))
        else:
            begins = np.arange(len(rows))
        self._begins = np.append(begins, len(rows))
        self._bases = np.concatenate([[0], np.cumsum(sizes)])[self._begins]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Self:
        """Put on disk, one after another."""
        store = Store(examples)
        return cls(store, np.arange(len(store)))

    def __len__(self) -> int:
        return len(self._begins) - 1

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        rows = self._rows[self._begins[at] : self._begins[at + 1]]
        example = join_responses([self._store[int(row)] for row in rows])
        return replace(example, response_base=int(self._bases[at]))

    @property
    def first_responses(self) -> np.ndarray:
        """(examples,) int64, index of each one's first response (`Example.response_base`)."""
        return self._bases[:-1]

    @property
    def first_pairs(self) -> np.ndarray:
        """(examples,) int64, number of each one's first comparison, counted through all."""
        counts = self._store.comparisons[self._rows]
        return np.concatenate([[0], np.cumsum(counts)])[self._begins[:-1]]

    @property
    def prompt_count(self) -> int:
        """Distinct prompts."""
        return len(np.unique(self._store.prompt_keys[self._rows]))

    @property
    def response_count(self) -> int:
        return int(self._store.responses[self._rows].sum())

    @property
    def pair_count(self) -> int:
        """Comparisons."""
        return int(self._store.comparisons[self._rows].sum())
