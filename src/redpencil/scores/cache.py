"""Reference log-probabilities on disk, keyed by what determines them and by nothing else.

A folder for each (weights, dtype), named by their fingerprint; in it shards from keys, which hash
one response each (prompt ids, response ids, scored mask), to log-probabilities. A pass that was
killed goes on after its last shard.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from redpencil.errors import UserError
from redpencil.places import cache_folder
from redpencil.scores.fingerprint import weights_fingerprint
from redpencil.scores.shards import Shard, open_folder


class ReferenceCache:
    """Log-probabilities of responses under one set of weights in one dtype."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known = open_folder(folder)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        autocast: torch.dtype | None = None,
        fingerprint: str | None = None,
    ) -> "ReferenceCache":
        """The cache for a model's weights. autocast: the dtype its products are computed in,
        where that is not the weights' own. fingerprint: the weights', where it is known."""
        name = fingerprint or weights_fingerprint(model)
        computed = "" if autocast is None else f"-{str(autocast).removeprefix('torch.')}"
        return cls(cache_folder() / "reference" / f"{name}{computed}")

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """keys: (n,) of 16-byte void. Returns (n,) float32 values and (n,) bool found, of what was
        there when the cache was opened."""
        return self._known.find(keys)

    def add(self, keys: np.ndarray, logps: np.ndarray) -> None:
        """Write one shard; other processes may write theirs at the same time.

        Raises UserError where the folder cannot be written.
        """
        try:
            Shard.of(keys, logps).write(self.folder)
        except OSError as error:
            raise UserError(
                f"the reference cache cannot be written in {self.folder} ({error.strerror}); set "
                "REDPENCIL_CACHE to another folder, or pass --no-cache"
            ) from None
