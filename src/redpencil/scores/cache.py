"""Reference log-probabilities on disk, keyed by what determines them and by nothing else.

A folder for each (weights, dtype), named by their fingerprint; in it shards from keys, which hash
one response each (prompt ids, response ids, scored mask), to log-probabilities. A pass that was
killed goes on after its last shard.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from redpencil.places import cache_folder, without_cache
from redpencil.scores.fingerprint import weights_fingerprint
from redpencil.scores.shards import KEY_BYTES, Shard, open_folder


class ReferenceCache:
    """Log-probabilities of responses under one set of weights in one dtype.

    A folder that cannot be read holds nothing, one that cannot be written gets nothing: either is
    said once, and what would have come from it is computed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written = True
        try:
            self._known = open_folder(folder)
        except OSError as error:
            self._refused(error, "read")
            self._known = Shard.of(np.zeros(0, dtype=f"V{KEY_BYTES}"), np.zeros(0))

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        autocast: torch.dtype | None = None,
        fingerprint: str | None = None,
    ) -> "ReferenceCache | None":
        """The cache for a model's weights; None where there is no place for one. autocast: the
        dtype its products are computed in, where that is not the weights' own. fingerprint: the
        weights', where it is known."""
        cache = cache_folder()
        if cache is None:
            return None
        name = fingerprint or weights_fingerprint(model)
        computed = "" if autocast is None else f"-{str(autocast).removeprefix('torch.')}"
        return cls(cache / "reference" / f"{name}{computed}")

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """keys: (n,) of 16-byte void. Returns (n,) float32 values and (n,) bool found, of what was
        there when the cache was opened."""
        return self._known.find(keys)

    def add(self, keys: np.ndarray, logps: np.ndarray) -> None:
        """Write one shard, if that is possible; other processes may write theirs at the same
        time."""
        if not self._written:
            return
        try:
            Shard.of(keys, logps).write(self.folder)
        except OSError as error:
            self._refused(error, "written")

    def _refused(self, error: OSError, done: str) -> None:
        self._written = False
        reason = (error.strerror or str(error)).lower()
        without_cache(f"{self.folder.parent.parent} cannot be {done} ({reason})")
