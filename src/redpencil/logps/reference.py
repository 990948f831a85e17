"""The reference: one signature, three sources.

A reference is a function from a micro-batch to the (B,) log-probabilities of its responses. They
come from a frozen model, from the policy with its adapters off, or from an array that was computed
once over the whole data set, by the same path, and is kept on disk (`ReferenceCache`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from redpencil.data.tree import number_responses
from redpencil.errors import NonFiniteError
from redpencil.logps.cache import ReferenceCache, response_keys
from redpencil.models.lora import adapter_off
from redpencil.types import Example, TreeBatch

Score = Callable[[nn.Module, TreeBatch], Tensor]
"""(model, batch) -> (B,)."""

Reference = Callable[[TreeBatch], Tensor]
"""batch -> (B,) float32 log-probabilities of its responses under the reference, no graph."""

Track = Callable[[Iterable[TreeBatch], int], Iterable[TreeBatch]]
"""Shows progress: (micro-batches, examples in all of them) -> the same micro-batches."""

SHARD_RESPONSES = 4096
"""Responses in a shard of the cache: what a killed pass loses at most."""


def frozen_reference(model: nn.Module, score: Score) -> Reference:
    """A model of its own, which is never trained."""

    @torch.no_grad()
    def reference(batch: TreeBatch) -> Tensor:
        return score(model, batch)

    return reference


def adapter_off_reference(model: nn.Module, score: Score) -> Reference:
    """The policy itself with its adapters switched off."""

    @torch.no_grad()
    def reference(batch: TreeBatch) -> Tensor:
        with adapter_off(model):
            return score(model, batch)

    return reference


def cached_reference(values: np.ndarray) -> Reference:
    """values: (responses,) float32, looked up by `TreeBatch.response_index`."""
    table = torch.from_numpy(values)

    def reference(batch: TreeBatch) -> Tensor:
        return table[batch.response_index.cpu()]

    return reference


@torch.no_grad()
def reference_logps(
    model: nn.Module,
    score: Score,
    examples: Sequence[Example],
    *,
    lay: Callable[[Sequence[Example]], Iterable[TreeBatch]],
    cache: ReferenceCache | None,
    track: Track,
) -> np.ndarray:
    """(responses,) float32 log-probabilities of all responses by response index.

    Those in the cache are taken from it; the rest are computed without gradient and added to it
    shard by shard. lay: cuts examples into micro-batches, in order. The model's mode is kept.
    """
    keys = response_keys(examples)
    counted = sum(len(e.responses) for e in examples)
    assert not examples or _indices(examples[-1])[-1] == counted - 1, "responses are not numbered"
    values = np.full(len(keys), np.nan, dtype=np.float32)
    found = np.zeros(len(keys), dtype=bool)
    if cache is not None:
        values, found = cache.find(keys)
    missing = [e for e in examples if not found[_indices(e)].all()]
    if not missing:
        return values
    index = np.concatenate([_indices(e) for e in missing])
    was_training = model.training
    model.eval()
    try:
        done = 0
        for logps in _computed(model, score, number_responses(missing), lay, track):
            at = index[done : done + len(logps)]
            _refuse_non_finite(logps, missing)
            values[at] = logps
            done += len(logps)
            if cache is not None:
                cache.add(keys[at], logps)
    finally:
        model.train(was_training)
    return values


def _refuse_non_finite(logps: np.ndarray, examples: Sequence[Example]) -> None:
    if not np.isfinite(logps).all():
        raise NonFiniteError(
            f"the reference gives {np.count_nonzero(~np.isfinite(logps))} non-finite "
            f"log-probabilities, in or after {examples[0].responses[0].origin}; its weights may be "
            "damaged"
        )


def _indices(example: Example) -> np.ndarray:
    return example.response_base + np.arange(len(example.responses))


def _computed(
    model: nn.Module,
    score: Score,
    examples: Sequence[Example],
    lay: Callable[[Sequence[Example]], Iterable[TreeBatch]],
    track: Track,
) -> Iterator[np.ndarray]:
    """Log-probabilities of all responses in order, about a shard's worth at a time."""
    device = next(model.parameters()).device
    pending: list[np.ndarray] = []
    for batch in track(lay(examples), len(examples)):
        pending.append(score(model, batch.to(device)).float().cpu().numpy())
        if sum(map(len, pending)) >= SHARD_RESPONSES:
            yield np.concatenate(pending)
            pending = []
    if pending:
        yield np.concatenate(pending)
