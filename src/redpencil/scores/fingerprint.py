"""What determines a log-probability, hashed: the weights it is computed with, and the response."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from redpencil.models.head import unwrap
from redpencil.scores.shards import KEY_BYTES
from redpencil.types import Example

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


def response_keys(examples: Iterable[Example]) -> np.ndarray:
    """(responses,) of 16-byte void: what is scored, whichever file, row or run it came from."""
    digests = bytearray()
    for example in examples:
        prompt = hashlib.blake2b(digest_size=KEY_BYTES)
        _add(prompt, example.prompt_ids, np.int32)
        for response in example.responses:
            digest = prompt.copy()
            _add(digest, response.ids, np.int32)
            _add(digest, response.scored, np.bool_)
            digests += digest.digest()
    return np.frombuffer(bytes(digests), dtype=_KEY)


def _add(digest: Any, array: np.ndarray, dtype: type[np.generic]) -> None:
    digest.update(len(array).to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(array, dtype=dtype).data)


def weights_fingerprint(model: nn.Module) -> str:
    """Hash of what the model computes with: parameters, buffers, what else its modules save
    (names, shapes, dtypes, bytes) and the config, without bookkeeping. Adapters are left out: a
    model under adapters has the fingerprint of its base."""
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
    """All tensors of a model. Quantised weights keep their scales beside the parameter, where only
    saving finds them; two models may differ in nothing else. A parameter that is a tensor of
    tensors is those."""
    causal = unwrap(model)
    listed = [*causal.named_parameters(), *causal.named_buffers()]
    known = {
        name
        for each in (causal.named_parameters, causal.named_buffers)
        for name, _ in each(remove_duplicate=False)
    }
    saved = causal.state_dict(keep_vars=True).items()
    listed += [(n, t) for n, t in saved if n not in known and isinstance(t, Tensor)]
    return [inner for name, tensor in listed for inner in _flat(name, tensor)]


def _flat(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """The plain tensors that a tensor consists of."""
    if not is_traceable_wrapper_subclass(tensor):
        return [(name, tensor)]
    inner, _ = tensor.__tensor_flatten__()
    return [found for part in inner for found in _flat(f"{name}.{part}", getattr(tensor, part))]


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
