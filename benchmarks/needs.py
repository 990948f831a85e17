"""What a step needs at least, and what the machine gives at most.

Operations of a training step, two for each multiply-add, N distinct tokens, S scored ones, R that
predict a scored one:

    layers      6 x parameters of their matrices x N: forward 2, backward to inputs 2, to weights 2
    last layer  x R instead of N for all but its keys and values
    adapters    the same over theirs, while frozen matrices need 4 x N, no gradient of weights
    head        6 (frozen: 4) x V x D x S
    attention   12 x layers x heads x head width x visible (query, key) pairs; R queries in the last

Nothing else is counted, for no way of making the step: recomputation, padding and repeated prompts
are not needed, so they lower the fraction of the peak that is reached.
"""

import time

import torch
from torch import nn

from redpencil.models.head import output_head, unwrap
from redpencil.types import Batch


def operations(model: nn.Module, batch: Batch) -> float:
    """Of one training step on a batch of trees."""
    causal = unwrap(model)
    config = causal.config
    outside = {causal.get_input_embeddings().weight, output_head(model).weight}
    tokens = sum(len(m.input_ids) for m in batch.micro_batches)
    read = sum(len(m.predicting) for m in batch.micro_batches)
    layers = adapters = 0
    for name, parameter in model.named_parameters():
        at = read if _where_read(name, config.num_hidden_layers - 1) else tokens
        if "lora_" in name:
            adapters += parameter.numel() * at
        elif parameter.ndim == 2 and not any(parameter is other for other in outside):
            layers += parameter.numel() * at
    per_weight = 4 if adapters else 6
    scored = sum(len(m.target_ids) for m in batch.micro_batches)
    depths = [m.position_ids + 1 for m in batch.micro_batches]
    pairs = sum(int(d.sum()) for d in depths) * (config.num_hidden_layers - 1)
    pairs += sum(
        int(d[m.predicting.index].sum()) for d, m in zip(depths, batch.micro_batches, strict=True)
    )
    head_dim = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    attention = 12 * config.num_attention_heads * head_dim * pairs
    head = per_weight * output_head(model).weight.numel() * scored
    return float(per_weight * layers + 6 * adapters + head + attention)


def _where_read(parameter: str, last: int) -> bool:
    """Whether a Llama-like decoder needs this matrix at the tokens that are read only."""
    parts = parameter.split(".")
    of_last = f".layers.{last}." in parameter
    return of_last and not {"k_proj", "v_proj"} & set(parts)


def matmul_peak(device: torch.device, dtype: torch.dtype, *, size: int, rounds: int) -> float:
    """Operations a second of a square matrix product: the best of some rounds."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(rounds + 1):  # the first one loads the kernel
        wait(device)
        begun = time.perf_counter()
        left @ right
        wait(device)
        best = min(best, time.perf_counter() - begun)
    return 2.0 * size**3 / best


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
