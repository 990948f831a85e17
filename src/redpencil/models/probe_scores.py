"""A probe of a few dozen tokens, and its numbers three ways: one sequence after the other, padded,
laid flat. Slow and obvious: they are what the ways of scoring are held against.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from redpencil.data.tree import lay_trees
from redpencil.models.configs import ordinary_tokens
from redpencil.models.head import backbone, gives_rewards, output_head, reward_head, unwrap
from redpencil.types import Example, Origin, Response, TreeBatch

Values = Callable[[nn.Module, TreeBatch], Tensor]
"""(model, batch) -> (E,) log-probabilities, or (B,) rewards."""


def probe_trees(causal: Any) -> tuple[TreeBatch, TreeBatch, Tensor]:
    """Two small trees of ordinary tokens, laid flat; the same with other tokens in the second
    response of the first and the first of the second; and which numbers must stay.

    The mask is over rewards (B,) or, for a language model, over scored tokens (E,).
    """
    ordinary = ordinary_tokens(causal.config)
    begin = max(0, len(ordinary) // 2 - 8)  # the last may be of a vocabulary filled up with blanks
    ids = np.array((ordinary * 16)[begin : begin + 16], dtype=np.int32)

    def example(prompt: list[int], *responses: list[int]) -> Example:
        origin = Origin("probe", 1)
        laid = (
            Response(ids=ids[r], scored=np.ones(len(r), dtype=bool), origin=origin)
            for r in responses
        )
        return Example(
            prompt_ids=ids[prompt], responses=tuple(laid), comparisons=(), prompt_key="probe"
        )

    def laid(second: list[int], fourth: list[int]) -> TreeBatch:
        first_tree = example(
            [0, 1, 2, 3, 9, 14],
            [4, 5, 6, 7, 1, 13, 2, 10, 8],
            [4, 5, *second],
            [5, 4, 3, 15, 0, 7, 12, 2],
        )
        other = example([5, 2, 12], fourth, [8, 0, 7, 3, 14, 1, 9])
        return lay_trees([first_tree, other], feed_last=True).to(causal.device)

    # What follows a fork differs by 1 or 2, so that three ordinary tokens are enough.
    batch = laid([7, 9, 10, 2, 14, 6], [9, 6, 1, 10, 3, 12, 5, 0, 13])
    changed = laid([8, 0, 3, 13, 8, 12], [10, 14, 7, 2, 8, 5, 0, 15, 4])
    same = torch.tensor([True, False, True, False, True], device=causal.device)
    return batch, changed, same if gives_rewards(causal) else same[batch.path_response]


def cut_to_one_length(batch: TreeBatch) -> TreeBatch:
    """The batch's sequences, each cut to the shortest."""
    shortest = min(len(e.prompt_ids) + len(r.ids) for e in batch.examples for r in e.responses)
    cut = [
        replace(
            e,
            responses=tuple(
                replace(r, ids=r.ids[:kept], scored=r.scored[:kept]) for r in e.responses
            ),
        )
        for e in batch.examples
        for kept in [shortest - len(e.prompt_ids)]
    ]
    return lay_trees(cut, feed_last=True).to(batch.input_ids.device)


def _rows(batch: TreeBatch) -> tuple[list[Tensor], list[int]]:
    """Every path as one sequence, and the tokens of its prompt."""
    each = [(e.prompt_ids, r.ids) for e in batch.examples for r in e.responses]
    device = batch.input_ids.device
    rows = [torch.from_numpy(np.concatenate(both)).long().to(device) for both in each]
    return rows, [len(prompt) for prompt, _ in each]


def _tree_logps(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(E,) float32, whole logits: the probe is tiny."""
    head = output_head(model)
    hidden = _tree_hidden(model, batch)[batch.predecessor]
    logits = head.scale * nn.functional.linear(hidden, head.weight, head.bias)
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    logps = torch.log_softmax(_wide(logits), dim=-1)
    return logps.gather(1, batch.target_ids[:, None])[:, 0][batch.path_token]


def _tree_rewards(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B,) float32."""
    assert batch.last_token is not None
    rewards: Tensor = reward_head(model)(_tree_hidden(model, batch)[batch.last_token])[:, 0]
    return _wide(rewards)


def _tree_hidden(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(N, D)"""
    out = backbone(model)(
        input_ids=batch.input_ids[None], position_ids=batch.position_ids[None], use_cache=False
    )
    hidden: Tensor = out.last_hidden_state[0]
    return hidden


def _plain_logps(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(E,) float32, each path by itself."""
    rows, prompts = _rows(batch)
    logits = [model(input_ids=row[None], use_cache=False).logits for row in rows]
    each = zip(logits, rows, prompts, strict=True)
    return torch.cat([_scored(of_one[0], row, prompt) for of_one, row, prompt in each])


def _padded_logps(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(E,) float32, all paths in one padded batch."""
    rows, prompts = _rows(batch)
    ids, mask = _padded(rows, 0)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    each = zip(logits, rows, prompts, strict=True)
    return torch.cat([_scored(of_one, row, prompt) for of_one, row, prompt in each])


def _scored(logits: Tensor, row: Tensor, prompt: int) -> Tensor:
    """(scored tokens,) log-probabilities of the tokens of `row` after its prompt."""
    logps = torch.log_softmax(_wide(logits[prompt - 1 : len(row) - 1]), dim=-1)
    return logps.gather(1, row[prompt:, None])[:, 0]


def _plain_rewards(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B,) float32, each path by itself: no padding token is needed."""
    rows, _ = _rows(batch)
    return torch.cat([_wide(model(input_ids=row[None]).logits[:, 0]) for row in rows])


def _padded_rewards(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B,) float32, all paths in one padded batch."""
    config = unwrap(model).config
    before = getattr(config.get_text_config(), "pad_token_id", None)
    rows, _ = _rows(batch)
    pad = before
    if pad is None:  # not settled yet: any that the probe does not have
        used = set(torch.cat(rows).tolist())
        pad = next(i for i in range(len(used) + 1) if i not in used)
    ids, mask = _padded(rows, pad)
    config.get_text_config().pad_token_id = pad
    try:
        return _wide(model(input_ids=ids, attention_mask=mask).logits[:, 0])
    finally:
        config.get_text_config().pad_token_id = before


def _padded(rows: Sequence[Tensor], pad: int) -> tuple[Tensor, Tensor]:
    """(B, L) tokens and mask."""
    ids = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=pad)
    real = [torch.ones_like(row) for row in rows]
    return ids, nn.utils.rnn.pad_sequence(real, batch_first=True)


def _wide(numbers: Tensor) -> Tensor:
    """At least float32."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))


LOGPS = (_plain_logps, _padded_logps, _tree_logps)
REWARDS = (_plain_rewards, _padded_rewards, _tree_rewards)
"""Each way to the same values: one by one, padded, laid flat."""
