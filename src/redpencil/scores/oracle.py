"""The oracle: a plain padded forward of every prompt and response. Slow and obvious.

It looks at the examples and never at the tree, so that a test "tree = oracle" compares two
different ways to the same number. Models that no tree can be laid flat for are trained by it.
"""

import numpy as np
import torch
from torch import Tensor, nn

from redpencil.scores.parts import padded_apart
from redpencil.types import TreeBatch


def oracle_logps(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B,) log-probability of each response, examples and their responses in order.

    The first token of a response with an empty prompt has nothing before it and is not scored.
    """

    def compute(part: TreeBatch) -> Tensor:
        logps_BL, scored_BL = _padded_logps(model, part)
        sums_B = logps_BL.where(scored_BL, 0.0).sum(dim=1, dtype=wide_dtype(logps_BL))
        return sums_B.to(logps_BL.dtype)

    return padded_apart(model, batch, compute)


def wide_dtype(values: Tensor) -> torch.dtype:
    """What to sum many numbers in: float64, except on Apple's devices, which have none."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def oracle_path_logps(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(E,) log-probability of each response's scored tokens, response after response."""

    def compute(part: TreeBatch) -> Tensor:
        logps_BL, scored_BL = _padded_logps(model, part)
        return logps_BL[scored_BL]

    return padded_apart(model, batch, compute, "incidences")


def oracle_rows(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(E, V) the logits from which each response's scored tokens are drawn."""

    def compute(part: TreeBatch) -> Tensor:
        logits_BLV, _, scored_BL = _padded_logits(model, part)
        return logits_BLV[scored_BL]

    return padded_apart(model, batch, compute, "incidences")


def _padded_logps(model: nn.Module, batch: TreeBatch) -> tuple[Tensor, Tensor]:
    """Of every token but the first of B padded sequences, and which of them are scored."""
    logits_BLV, targets_BL, scored_BL = _padded_logits(model, batch)
    wide = torch.promote_types(logits_BLV.dtype, torch.float32)
    logps_BLV = torch.log_softmax(logits_BLV.to(wide), dim=-1)
    return logps_BLV.gather(2, targets_BL[:, :, None])[:, :, 0], scored_BL


def _padded_logits(model: nn.Module, batch: TreeBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Before every token but the first of B padded sequences: the logits, the token, and whether
    it is scored."""
    device = next(model.parameters()).device
    sequences: list[Tensor] = []
    scored: list[Tensor] = []
    for example in batch.examples:
        unscored = np.zeros(len(example.prompt_ids), dtype=bool)
        for response in example.responses:
            ids = np.concatenate([example.prompt_ids, response.ids]).astype(np.int64)
            sequences.append(torch.from_numpy(ids))
            scored.append(torch.from_numpy(np.concatenate([unscored, response.scored])))
    # Padded on the right, where a causal model never looks back from; id 0 is as good as any.
    ids_BL = nn.utils.rnn.pad_sequence(sequences, batch_first=True).to(device)
    scored_BL = nn.utils.rnn.pad_sequence(scored, batch_first=True).to(device)
    real_BL = nn.utils.rnn.pad_sequence(
        [torch.ones(len(s), dtype=torch.int64) for s in sequences], batch_first=True
    ).to(device)
    logits_BLV = model(input_ids=ids_BL, attention_mask=real_BL, use_cache=False).logits
    return logits_BLV[:, :-1], ids_BL[:, 1:], scored_BL[:, 1:]
