"""Reference log-probabilities on disk, keyed by what determines them and by nothing else.

A folder for each (weights, dtype), named by their fingerprint; in it shards of
`keys (n, 16) uint8` and `logps (n,) float32`, where a key hashes one response: prompt ids, response
ids, scored mask. A shard is written beside its final name and renamed, so that it is whole or
absent, and a pass that was killed goes on after its last shard.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from redpencil.console import warn
from redpencil.models.head import unwrap
from redpencil.types import Example, Response

KEY_BYTES = 16
_KEY = np.dtype(f"V{KEY_BYTES}")

_BOOKKEEPING = frozenset(
    {
        "_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache",
        "architectures", "_attn_implementation", "attn_implementation", "auto_map",
        "bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id",
        "output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward",
    }
)  # fmt: skip
"""Config entries that do not change what the model computes."""


def default_folder() -> Path:
    """Where caches lie: $REDPENCIL_CACHE, or ~/.cache/redpencil."""
    named = os.environ.get("REDPENCIL_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "redpencil"


class ReferenceCache:
    """Log-probabilities of responses under one set of weights in one dtype."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys, self._logps = _read_shards(folder)

    @classmethod
    def of(cls, model: nn.Module, *, autocast: torch.dtype | None = None) -> "ReferenceCache":
        """The cache for a model's weights. autocast: the dtype its products are computed in,
        where that is not the weights' own."""
        name = weights_fingerprint(model)
        computed = "" if autocast is None else f"-{str(autocast).removeprefix('torch.')}"
        return cls(default_folder() / "reference" / f"{name}{computed}")

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """keys: (n,) of 16-byte void. Returns (n,) float32 values and (n,) bool found."""
        if not len(self._keys) or not len(keys):
            return np.zeros(len(keys), dtype=np.float32), np.zeros(len(keys), dtype=bool)
        at = np.searchsorted(self._keys, keys.view(_SORTABLE)).clip(max=len(self._keys) - 1)
        return self._logps[at], self._keys[at] == keys.view(_SORTABLE)

    def add(self, keys: np.ndarray, logps: np.ndarray) -> None:
        """Write one shard; other processes may write theirs at the same time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        scratch = self.folder / f".{name}.partial"
        content = {"keys": keys.view(np.uint8).reshape(-1, KEY_BYTES), "logps": logps}
        save_file(content, scratch)
        os.replace(scratch, self.folder / f"{name}.safetensors")


_SORTABLE = np.dtype([("high", ">u8"), ("low", ">u8")])
"""The same 16 bytes as two numbers: void values have no order."""


def _read_shards(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    keys = [np.zeros(0, dtype=_SORTABLE)]
    logps = [np.zeros(0, dtype=np.float32)]
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        try:
            shard = load_file(path)
            part, values = shard["keys"], shard["logps"]
            if part.shape != (len(values), KEY_BYTES) or values.dtype != np.float32:
                raise ValueError(f"shapes {part.shape} and {values.shape}")
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            warn(f"reference cache: {path} is damaged and not used ({error})")
            continue
        keys.append(np.ascontiguousarray(part).view(_SORTABLE)[:, 0])
        logps.append(values)
    joined = np.concatenate(keys)
    order = np.argsort(joined, order=("high", "low"))
    return joined[order], np.concatenate(logps)[order]


def response_keys(examples: Sequence[Example]) -> np.ndarray:
    """(responses,) of 16-byte void: what is scored, whichever file, row or run it came from."""
    digests = [_response_key(e.prompt_ids, r) for e in examples for r in e.responses]
    return np.frombuffer(b"".join(digests), dtype=_KEY) if digests else np.zeros(0, dtype=_KEY)


def _response_key(prompt_ids: np.ndarray, response: Response) -> bytes:
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for array, dtype in (
        (prompt_ids, np.int32),
        (response.ids, np.int32),
        (response.scored, np.bool_),
    ):
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return digest.digest()


def weights_fingerprint(model: nn.Module) -> str:
    """Hash of what the model computes with: parameters, buffers (names, shapes, dtypes, bytes) and
    the config, without bookkeeping. Adapters are left out: a model under adapters has the
    fingerprint of its base."""
    digest = hashlib.sha256()
    digest.update(json.dumps(_function_of(unwrap(model).config.to_dict()), sort_keys=True).encode())
    tensors = {_plain_name(name): t for name, t in _tensors(model) if "lora_" not in name}
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()[:32]


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    causal = unwrap(model)
    return [*causal.named_parameters(), *causal.named_buffers()]


def _plain_name(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's memory; without a copy where it lies contiguous on the CPU."""
    flat = tensor.cpu().contiguous().reshape(-1)
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


def _function_of(config: Mapping[str, object]) -> dict[str, object]:
    kept: dict[str, object] = {}
    for key, value in config.items():
        if key not in _BOOKKEEPING:
            nested = isinstance(value, Mapping)
            kept[key] = _function_of(value) if nested else _plain(value)  # type: ignore[arg-type]
    return kept


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, list, type(None))) else str(value)
