"""The critic of RL: one number for each hidden state of the policy's own decoder."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from redpencil.models.head import unwrap

NAME = "value_head"


def add_value_head(model: nn.Module) -> nn.Linear:
    """Give the policy a linear critic, (…, D) -> (…, 1) float32, that starts by expecting 0.

    It becomes a submodule, so that optimizer and checkpoints hold it with the policy's weights.
    """
    width = unwrap(model).get_input_embeddings().weight.shape[1]
    parameter = next(model.parameters())
    with torch.random.fork_rng(devices=[]):  # the layer's own start is drawn, then thrown away
        head = nn.Linear(width, 1).to(device=parameter.device, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    model.add_module(NAME, head)
    return head


@contextmanager
def without_value_head(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the policy alone: what is saved for others to load."""
    head = model._modules.pop(NAME, None)
    try:
        yield
    finally:
        if head is not None:
            model.add_module(NAME, head)
