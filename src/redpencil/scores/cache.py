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
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from redpencil.console import warn
from redpencil.errors import UserError
from redpencil.models.head import unwrap
from redpencil.places import cache_folder
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
"""Config entries that do not change what the model computes; nor does dropout, which is off."""


class ReferenceCache:
    """Log-probabilities of responses under one set of weights in one dtype."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys, self._logps = _read_shards(folder)

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
        """keys: (n,) of 16-byte void. Returns (n,) float32 values and (n,) bool found."""
        if not len(self._keys) or not len(keys):
            return np.zeros(len(keys), dtype=np.float32), np.zeros(len(keys), dtype=bool)
        halves = _halves(keys)
        order = np.argsort(halves[:, 0])  # sorted questions are answered several times faster
        at = np.empty(len(keys), dtype=np.int64)
        at[order] = np.searchsorted(self._keys[:, 0], halves[order, 0])
        at = at.clip(max=len(self._keys) - 1)
        # Two keys with the same first half would hide one of them: it is computed again.
        return self._logps[at], (self._keys[at] == halves).all(axis=1)

    def add(self, keys: np.ndarray, logps: np.ndarray) -> None:
        """Write one shard; other processes may write theirs at the same time.

        Raises UserError where the folder cannot be written.
        """
        content = {"keys": keys.view(np.uint8).reshape(-1, KEY_BYTES), "logps": logps}
        name = uuid.uuid4().hex
        scratch = self.folder / f".{name}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            with scratch.open("wb") as file:
                file.write(save(content, metadata={"checksum": _checksum(content)}))
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, self.folder / f"{name}.safetensors")
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            scratch.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"the reference cache cannot be written in {self.folder} ({error.strerror}); set "
            "REDPENCIL_CACHE to another folder, or pass --no-cache"
        )


def _halves(keys: np.ndarray) -> np.ndarray:
    """(n, 2) uint64, the same 16 bytes as two numbers: void values have no order."""
    return np.ascontiguousarray(keys).view(np.uint8).view(np.uint64).reshape(-1, 2)


def _checksum(content: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in ("keys", "logps"):
        digest.update(np.ascontiguousarray(content[name]).tobytes())
    return digest.hexdigest()


def _read_shards(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) uint64 keys, sorted by their first half, and (n,) float32."""
    keys = [np.zeros((0, 2), dtype=np.uint64)]
    logps = [np.zeros(0, dtype=np.float32)]
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        try:
            part, values = _read_shard(path)
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            warn(f"reference cache: {path} is damaged and not used ({error})")
            continue
        keys.append(_halves(part))
        logps.append(values)
    joined = np.concatenate(keys)
    order = np.argsort(joined[:, 0], kind="stable")
    return joined[order], np.concatenate(logps)[order]


def _read_shard(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with safe_open(path, framework="np") as shard:
        content = {name: shard.get_tensor(name) for name in ("keys", "logps")}
        written = (shard.metadata() or {}).get("checksum")
    part, values = content["keys"], content["logps"]
    if part.shape != (len(values), KEY_BYTES) or values.dtype != np.float32:
        raise ValueError(f"shapes {part.shape} and {values.shape}")
    if written != _checksum(content):
        raise ValueError("its checksum is wrong")
    return part, values


def response_keys(examples: Iterable[Example]) -> np.ndarray:
    """(responses,) of 16-byte void: what is scored, whichever file, row or run it came from."""
    digests = bytearray()
    for example in examples:
        for response in example.responses:
            digests += _response_key(example.prompt_ids, response)
    return np.frombuffer(bytes(digests), dtype=_KEY)


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
    config = _function_of(unwrap(model).config.to_dict())
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    tensors = {_plain_name(name): t for name, t in _tensors(model) if "lora_" not in name}
    names = sorted(tensors)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets other threads run
        for name, bytes_digest in zip(
            names, pool.map(_bytes_digest, (tensors[n] for n in names)), strict=True
        ):
            tensor = tensors[name]
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(bytes_digest)
    return digest.hexdigest()[:32]


def _bytes_digest(tensor: Tensor) -> bytes:
    return hashlib.sha256(_bytes_of(tensor)).digest()


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    causal = unwrap(model)
    return [*causal.named_parameters(), *causal.named_buffers()]


def _plain_name(name: str) -> str:
    """The name before peft wrapped the layer, for experts more than once."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


def _bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's memory; without a copy where it lies contiguous on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


def _function_of(config: Mapping[str, object]) -> dict[str, object]:
    kept: dict[str, object] = {}
    for key, value in config.items():
        if key not in _BOOKKEEPING and not key.endswith(("dropout", "_pdrop")):
            nested = isinstance(value, Mapping)
            kept[key] = _function_of(value) if nested else _plain(value)  # type: ignore[arg-type]
    return kept


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, list, type(None))) else str(value)
