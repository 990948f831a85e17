"""A training step's forward and backward pass never ask the device for a value.

On a GPU that would be waiting for everything queued before. A CPU does not wait, but the operations
that read a value, or whose result has as many entries as values say, are the same. (`.cpu()` and
`.tolist()` are no operations on a CPU and not seen.)
"""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from redpencil.data.tree import lay_trees
from redpencil.models.attention import install
from redpencil.models.layout import TreeLayout
from redpencil.optim import clip_gradients
from redpencil.scores.forward import tree_logps
from redpencil.scores.reference import cached_reference
from redpencil.stages.tasks import preference_task
from redpencil.types import Comparison
from zoo import ARCHITECTURES, example, random_examples, tiny_model

READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "repeat_interleave.Tensor")


class Reads(TorchDispatchMode):
    """Collects the names of operations that read values back."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        by_mask = name.startswith("aten.index") and any(
            isinstance(t, torch.Tensor) and t.dtype == torch.bool
            for t in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if by_mask or any(word in name for word in READS):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def batch_of_pairs():
    return lay_trees(
        [
            example(
                e.prompt_ids.tolist(),
                *(r.ids.tolist() for r in e.responses),
                comparisons=[Comparison(chosen=0, rejected=1)],
            )
            for e in random_examples(0, 2, prompts=3)
        ]
    )


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in ("mixtral", "qwen3_moe")])
def test_loss_and_gradients_read_nothing(name):
    """Experts are left out: transformers sorts tokens among them in ways that depend on the
    device."""
    model = tiny_model(name)
    install(model)
    batch = batch_of_pairs()
    reference = cached_reference(np.linspace(-30, -20, len(batch.lengths), dtype=np.float32))
    task = preference_task("dpo", {}, tree_logps, reference)
    with Reads() as reads:
        measured = task.measure(model, batch)
        (measured.losses.sum() / 3).backward()
        clip_gradients(model.parameters(), 1.0)
    assert reads.found == []


@pytest.mark.parametrize("window", [None, 4])
def test_laying_out_blocks_reads_nothing(window):
    batch = batch_of_pairs()
    with Reads() as reads:
        TreeLayout.of(batch).block_mask(window)
    assert reads.found == []


def test_a_read_is_seen():
    """Negative control."""
    values = torch.arange(4)
    for read in (
        lambda: values.sum().item(),
        lambda: bool((values > 2).any()),
        lambda: values[values > 2],
        lambda: values.repeat_interleave(values),
    ):
        with Reads() as reads:
            read()
        assert reads.found
