"""Rewards of responses: from one forward over trees, or by the padded oracle."""

import numpy as np
import torch
from torch import Tensor, nn

from redpencil.models.head import reward_head, unwrap
from redpencil.scores.forward import Scorer, fitting_scorer, hidden_states
from redpencil.types import TreeBatch


def tree_rewards(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B,) float32 reward of each response, read at its own last token (paper Eq. 2).

    The decoder runs over N distinct tokens, the head over B of them.
    """
    assert batch.last_token is not None, "rewards are read at last tokens; lay them (feed_last)"
    hidden_BD = hidden_states(model, batch, batch.ending).index_select(0, batch.last_token)
    rewards_B: Tensor = reward_head(model)(hidden_BD)[:, 0]
    return rewards_B.float()


def oracle_rewards(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B,) float32 reward of each response: the model's own padded forward of every sequence."""
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
