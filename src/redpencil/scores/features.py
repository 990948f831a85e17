"""What a frozen model makes of a response: its last hidden states, for a judge that is fitted on
top of them.

Two vectors side by side: the state at the response's last token, which has read all of it, and the
mean of the states from which its scored tokens are predicted.
"""

import numpy as np
import torch
from torch import Tensor, nn

from redpencil.models.head import backbone
from redpencil.scores.forward import Scorer, fitting_scorer, hidden_states
from redpencil.scores.parts import padded_apart, trees_apart
from redpencil.types import TreeBatch


def tree_features(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B, 2D) float32 features of each response, from one forward over distinct tokens.

    The trees must have been laid with their last tokens (`feed_last`).
    """
    return trees_apart(model, batch, lambda part: _tree_features(model, part))


def _tree_features(model: nn.Module, batch: TreeBatch) -> Tensor:
    assert batch.last_token is not None, "features are read at last tokens; lay them (feed_last)"
    hidden_ND = hidden_states(model, batch).float()
    before_ED = hidden_ND.index_select(0, batch.predecessor.index_select(0, batch.path_token))
    sums_BD = hidden_ND.new_zeros(len(batch.lengths), hidden_ND.shape[1])
    sums_BD.index_add_(0, batch.path_response, before_ED)
    means_BD = sums_BD / batch.lengths.clamp(min=1)[:, None]
    return torch.cat([hidden_ND.index_select(0, batch.last_token), means_BD], dim=1)


def oracle_features(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B, 2D) float32: the same from a padded forward of every sequence; of an encoder, too."""
    return padded_apart(model, batch, lambda part: _padded_features(model, part))


def _padded_features(model: nn.Module, batch: TreeBatch) -> Tensor:
    device = next(model.parameters()).device
    sequences: list[Tensor] = []
    before: list[Tensor] = []
    for example in batch.examples:
        for response in example.responses:
            ids = np.concatenate([example.prompt_ids, response.ids]).astype(np.int64)
            sequences.append(torch.from_numpy(ids))
            scored = np.concatenate([np.zeros(len(example.prompt_ids), bool), response.scored])
            before.append(torch.from_numpy(np.append(scored[1:], False)))
    pad = nn.utils.rnn.pad_sequence
    ids_BL = pad(sequences, batch_first=True).to(device)
    before_BL = pad(before, batch_first=True).to(device)
    lengths_B = torch.tensor([len(s) for s in sequences], device=device)
    real_BL = torch.arange(ids_BL.shape[1], device=device) < lengths_B[:, None]
    hidden_BLD = backbone(model)(input_ids=ids_BL, attention_mask=real_BL.long())
    hidden_BLD = hidden_BLD.last_hidden_state.float()
    last_BD = hidden_BLD[torch.arange(len(lengths_B), device=device), lengths_B - 1]
    sums_BD = (hidden_BLD * before_BL[:, :, None]).sum(dim=1)
    means_BD = sums_BD / before_BL.sum(dim=1).clamp(min=1)[:, None]
    return torch.cat([last_BD, means_BD], dim=1)


def feature_scorer_for(model: nn.Module) -> Scorer:
    """Trees where the model takes them, measured on a probe, else the padded oracle."""
    return fitting_scorer(model, tree_features, oracle_features)
