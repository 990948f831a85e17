"""The reference: one signature, three sources.

A reference is a function from a micro-batch to the (B,) log-probabilities of its responses. They
come from a frozen model, from the policy with its adapters off, or from an array that was computed
once over the whole data set, by the same path, and is kept on disk (`ReferenceCache`).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from redpencil.data.group import numbered
from redpencil.errors import NonFiniteError
from redpencil.models.head import unwrap
from redpencil.models.lora import adapter_off
from redpencil.models.training_mode import at_rest
from redpencil.scores.cache import ReferenceCache
from redpencil.scores.fingerprint import response_keys
from redpencil.scores.forward import Score
from redpencil.scores.in_memory import in_memory
from redpencil.types import Example, TreeBatch

Reference = Callable[[TreeBatch], Tensor]
"""batch -> (B,) float32 log-probabilities of its responses under the reference, no graph."""

Found = TypeVar("Found")

Track = Callable[[Iterable[TreeBatch], int], Iterable[TreeBatch]]
"""Shows progress: (micro-batches, examples in all of them) -> the same micro-batches."""

SHARD_RESPONSES = 4096
SHARD_SECONDS = 20.0
"""A shard of the cache has this many responses or took this long: what a killed pass loses."""


@contextmanager
def _as_reference(model: nn.Module) -> Iterator[None]:
    """Inside, at rest and without adapters, if the model has any: what its fingerprint names."""
    with at_rest(model):
        if unwrap(model) is model:
            yield
        else:
            with adapter_off(model):
                yield


def frozen_reference(
    model: nn.Module, score: Callable[[nn.Module, TreeBatch], Found]
) -> Callable[[TreeBatch], Found]:
    """A model of its own, which is never trained."""

    @torch.no_grad()
    def reference(batch: TreeBatch) -> Found:
        with at_rest(model):
            return score(model, batch)

    return reference


def adapter_off_reference(
    model: nn.Module, score: Callable[[nn.Module, TreeBatch], Found]
) -> Callable[[TreeBatch], Found]:
    """The policy itself with its adapters switched off."""

    @torch.no_grad()
    def reference(batch: TreeBatch) -> Found:
        with at_rest(model), adapter_off(model):
            return score(model, batch)

    return reference


def cached_reference(values: np.ndarray) -> Reference:
    """values: (responses,) float32, looked up by `TreeBatch.response_index` on its device."""
    tables = {torch.device("cpu"): torch.from_numpy(values)}

    def reference(batch: TreeBatch) -> Tensor:
        device = batch.response_index.device
        if device not in tables:  # moved once: asking the device for indices would wait for it
            tables[device] = tables[torch.device("cpu")].to(device)
        return tables[device][batch.response_index]

    return reference


@torch.no_grad()
def reference_logps(
    model: nn.Module,
    score: Score,
    examples: Sequence[Example],
    *,
    lay: Callable[[Iterable[Example]], Iterable[TreeBatch]],
    cache: ReferenceCache | None,
    track: Track,
) -> np.ndarray:
    """(responses,) float32 log-probabilities of all responses by response index.

    Those in the cache are taken from it; the rest are computed without gradient, with the model's
    adapters off, and added to it shard by shard, the last even when the pass is interrupted.
    lay: cuts examples into micro-batches, in any order. The model's mode is kept. Raises
    NonFiniteError.
    """
    first: list[int] = []

    def noted() -> Iterator[Example]:  # examples may wait on disk: one look at each
        for example in examples:
            first.append(example.response_base)
            yield example

    keys = response_keys(noted())
    values = np.full(len(keys), np.nan, dtype=np.float32)
    found = np.zeros(len(keys), dtype=bool)
    if cache is not None:
        values, found = cache.find(keys)
    known = np.logical_and.reduceat(found, first) if first else np.zeros(0, dtype=bool)
    missing: list[int] = np.flatnonzero(~known).tolist()
    if not missing:
        return values
    ends = [*first[1:], len(keys)]
    index = np.concatenate([np.arange(first[i], ends[i]) for i in missing])
    came = np.zeros(len(keys), dtype=np.int64)  # in which micro-batch; 0: before this pass
    device = next(model.parameters()).device
    with _as_reference(model), _shards(cache) as keep:
        batches = track(lay(numbered(examples[i] for i in missing)), len(missing))
        for batch, logps in in_memory(
            batches, lambda laid: score(model, laid.to(device)).float().cpu().numpy()
        ):
            _refuse_non_finite(logps, batch.examples)
            at = index[batch.response_index.cpu().numpy()]
            new = ~found[at]
            values[at[new]], came[at[new]] = logps[new], came.max() + 1
            keep(keys[at[new]], logps[new])
    return _first_come(keys, values, came)


def _first_come(keys: np.ndarray, values: np.ndarray, came: np.ndarray) -> np.ndarray:
    """One value for equal responses, that which came first. They may differ by rounding, and the
    cache keeps one: a run that was interrupted would go on with other numbers."""
    halves = keys.view(np.uint64).reshape(-1, 2)
    order = np.lexsort((came, halves[:, 1], halves[:, 0]))
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (halves[order[1:]] != halves[order[:-1]]).any(axis=1)
    leading = order[begins][np.cumsum(begins) - 1]
    settled = np.empty_like(values)
    settled[order] = values[leading]
    return settled


@contextmanager
def _shards(cache: ReferenceCache | None) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """Collects (keys, logps) and writes them to the cache, a shard at a time; the rest at the end,
    whether that came by itself or by an error."""
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    since = time.monotonic()

    def write() -> None:
        nonlocal since
        if pending and cache is not None:
            keys, logps = (np.concatenate(part) for part in zip(*pending, strict=True))
            pending.clear()
            cache.add(keys, logps)
        since = time.monotonic()

    def keep(keys: np.ndarray, logps: np.ndarray) -> None:
        pending.append((keys, logps))
        enough = sum(len(k) for k, _ in pending) >= SHARD_RESPONSES
        if enough or time.monotonic() - since > SHARD_SECONDS:
            write()

    try:
        yield keep
    finally:
        write()


def _refuse_non_finite(logps: np.ndarray, examples: Sequence[Example]) -> None:
    if not np.isfinite(logps).all():
        raise NonFiniteError(
            f"the reference gives {np.count_nonzero(~np.isfinite(logps))} non-finite "
            f"log-probabilities in the micro-batch of {examples[0].responses[0].origin}; its "
            "weights may be damaged"
        )
