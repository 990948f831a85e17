"""Rewards of responses: from one forward over trees, or by the padded oracle."""

import numpy as np
import torch
from torch import Tensor, nn

from redpencil.models.head import reward_head, unwrap
from redpencil.scores.forward import Scorer, fitting_scorer, hidden_states
from redpencil.scores.parts import padded_apart, trees_apart
from redpencil.types import Places, TreeBatch


def tree_rewards(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B,) float32 reward of each response, read at its own last token (paper Eq. 2) that is not
    the model's padding token, as transformers reads it.

    The decoder runs over N distinct tokens, the head over B of them.
    """
    return trees_apart(model, batch, lambda part: _tree_rewards(model, part))


def _tree_rewards(model: nn.Module, batch: TreeBatch) -> Tensor:
    assert batch.last_token is not None, "rewards are read at last tokens; lay them (feed_last)"
    last_token, ending = batch.last_token, batch.ending
    pad = unwrap(model).config.get_text_config().pad_token_id
    if pad is not None and _ends_with(pad, batch):
        last_token, ending = _before_padding(pad, batch)
    hidden_BD = hidden_states(model, batch, ending).index_select(0, last_token)
    rewards_B: Tensor = reward_head(model)(hidden_BD)[:, 0]
    return rewards_B.float()


def _ends_with(token: int, batch: TreeBatch) -> bool:
    """Whether any response does; looked up in the examples, which no device has to tell."""
    return any(
        int(ids[-1]) == token
        for e in batch.examples
        for r in e.responses
        for ids in (r.ids if len(r.ids) else e.prompt_ids,)
        if len(ids)
    )


def _before_padding(pad: int, batch: TreeBatch) -> tuple[Tensor, Places]:
    """(B,) the last token on each response's path that is not `pad`, or its first where all are;
    and which distinct ones these are."""
    assert batch.last_token is not None
    ids_N, ends_N = batch.input_ids.cpu().numpy(), batch.subtree_end.cpu().numpy()
    last_B = batch.last_token.cpu().numpy()
    read_B = np.empty_like(last_B)
    for b, last in enumerate(last_B):
        path = np.flatnonzero(ends_N[: last + 1] >= last)
        kept = path[ids_N[path] != pad]
        read_B[b] = kept[-1] if len(kept) else path[0]
    host = np.unique(read_B)
    device = batch.input_ids.device
    index, places = torch.from_numpy(read_B).to(device), torch.from_numpy(host).to(device)
    return index, Places(places, host)


def oracle_rewards(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B,) float32 reward of each response: the model's own padded forward of every sequence."""
    return padded_apart(model, batch, lambda part: _padded_rewards(model, part))


def _padded_rewards(model: nn.Module, batch: TreeBatch) -> Tensor:
    device = next(model.parameters()).device
    sequences = [
        torch.from_numpy(np.concatenate([e.prompt_ids, r.ids]).astype(np.int64))
        for e in batch.examples
        for r in e.responses
    ]
    pad = unwrap(model).config.get_text_config().pad_token_id
    assert pad is not None, "a reward model has a padding token"
    ids_BL = nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=pad)
    lengths_B = torch.tensor([len(s) for s in sequences])
    real_BL = torch.arange(ids_BL.shape[1]) < lengths_B[:, None]
    logits_B1 = model(input_ids=ids_BL.to(device), attention_mask=real_BL.long().to(device)).logits
    assert logits_B1.shape == (len(sequences), 1), tuple(logits_B1.shape)
    rewards_B: Tensor = logits_B1[:, 0].float()
    return rewards_B


def reward_scorer_for(model: nn.Module) -> Scorer:
    """Trees where the model takes them, measured on a probe, else the padded oracle."""
    return fitting_scorer(model, tree_rewards, oracle_rewards)
