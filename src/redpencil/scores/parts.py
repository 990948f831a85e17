"""Micro-batches cut where a model's numbers would depend on what shares a call.

Most models never need it. LongRoPE and dynamic NTK scaling turn all positions of a call by its
longest, so sequences on two sides of their bound never meet (`models/positions.py`); some models
are changed by padding or by any neighbour, so only sequences of one length meet, or none
(`models/probe.py`). A micro-batch is
cut inside of the score, where training, reference, evaluation and rewards all pass; but not where
its memory is counted on fake tensors, which hold the same in one part or in several.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode

from redpencil.data.tree import lay_trees
from redpencil.models.positions import frequency_key
from redpencil.models.probe import sharing
from redpencil.types import Example, TreeBatch

Compute = Callable[[TreeBatch], Tensor]

Rows = Literal["responses", "incidences"]
"""What a score has a row for: each of B, or each of E."""


def trees_apart(
    model: nn.Module, batch: TreeBatch, compute: Compute, rows: Rows = "responses"
) -> Tensor:
    """`compute(batch)` over trees, of parts whose paths have the same frequencies."""
    key = frequency_key(model)
    if key is None or detect_fake_mode() is not None:
        return compute(batch)
    lengths = _lengths(batch)
    # The whole path counts, as for whoever else reads it, but trees leave a last token out.
    fed = int(lengths.max()) - (batch.last_token is None)
    keys = {key(n) for n in lengths.tolist()}
    if keys == {key(fed)}:
        return compute(batch)
    keys_B = np.array([key(n) for n in lengths.tolist()])
    return _apart(batch, keys_B, compute, rows, feed_last=True)


def padded_apart(
    model: nn.Module, batch: TreeBatch, compute: Compute, rows: Rows = "responses"
) -> Tensor:
    """`compute(batch)` over padded sequences, of parts that may be padded to one length."""
    if detect_fake_mode() is not None:
        return compute(batch)
    lengths = _lengths(batch)
    match sharing(model):
        case "nothing":
            keys = np.arange(len(lengths))
        case "one length":
            keys = lengths
        case "any":
            key = frequency_key(model)
            if key is None:
                return compute(batch)
            keys = np.array([key(n) for n in lengths.tolist()])
    return _apart(batch, keys, compute, rows, feed_last=batch.last_token is not None)


def _lengths(batch: TreeBatch) -> np.ndarray:
    """(B,) tokens of each prompt with its response."""
    return np.array([len(e.prompt_ids) + len(r.ids) for e in batch.examples for r in e.responses])


def _apart(
    batch: TreeBatch,
    keys: np.ndarray,
    compute: Compute,
    rows: Rows,
    *,
    feed_last: bool,
) -> Tensor:
    """keys: (B,) responses of one key share a call."""
    parts = [keys == k for k in np.unique(keys)]
    device = batch.input_ids.device
    values = [compute(_of(batch, part, feed_last).to(device)) for part in parts]
    of_row = np.arange(len(keys))
    if rows == "incidences":
        of_row = batch.path_response.cpu().numpy()
    places = np.concatenate([np.flatnonzero(part[of_row]) for part in parts])
    whole = torch.cat(values)
    assert len(whole) == len(places), (len(whole), len(places))
    return whole.index_select(0, torch.from_numpy(np.argsort(places)).to(device))


def _of(batch: TreeBatch, part: np.ndarray, feed_last: bool) -> TreeBatch:
    """The responses of a part, laid anew."""
    return lay_trees(list(_examples(batch, part)), feed_last=feed_last)


def _examples(batch: TreeBatch, part: np.ndarray) -> Iterator[Example]:
    at = 0
    for example in batch.examples:
        kept = part[at : at + len(example.responses)]
        at += len(example.responses)
        if kept.any():
            responses = tuple(r for r, k in zip(example.responses, kept, strict=True) if k)
            yield replace(example, responses=responses, comparisons=())
