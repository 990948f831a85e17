"""Log-probabilities of responses from one forward over trees, and which way a model is scored."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redpencil.models.attention import install, is_installed
from redpencil.models.configs import is_encoder
from redpencil.models.head import backbone, output_head, unwrap
from redpencil.models.layout import laid_out
from redpencil.models.probe import sharing, takes_trees
from redpencil.scores.chunked import chunked_logps
from redpencil.scores.oracle import oracle_logps, wide_dtype
from redpencil.scores.parts import trees_apart
from redpencil.types import Places, TreeBatch


def hidden_states(model: nn.Module, batch: TreeBatch, read: Places | None = None) -> Tensor:
    """(N, D) last hidden state of each distinct token given the path before it.

    model: one that takes trees, its adapters included. read: the tokens whose rows will
    be read; the last layer is spared the work for others, and their rows are not their hidden
    states. None for all.
    """
    if not is_installed(model):  # a second copy of one that was found to take trees
        install(model)
    with laid_out(batch, read) as layout:
        hidden_ND: Tensor = backbone(model)(
            input_ids=batch.input_ids[None],
            # Says nothing that the layout does not; without it transformers would look for packed
            # sequences in the positions, and wait for the device to tell.
            attention_mask=torch.ones_like(batch.input_ids)[None],
            position_ids=batch.position_ids[None],
            use_cache=False,
        ).last_hidden_state[0]
    assert layout.calls, "no attention layer came to redpencil: the model takes no trees"
    return hidden_ND


def token_logps(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(S,) log-probability of each scored token given the path before it.

    The decoder runs over N distinct tokens, the head over the S positions that predict a scored
    token and no other.
    """
    return _projected(model, batch, _before_scored(model, batch))


def _before_scored(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(S, D) the hidden state from which each scored token is predicted."""
    return hidden_states(model, batch, batch.predicting).index_select(0, batch.predecessor)


def states_before_scored(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(E, D) the hidden state from which each response's scored tokens are predicted."""

    def compute(part: TreeBatch) -> Tensor:
        return _before_scored(model, part).index_select(0, part.path_token)

    return trees_apart(model, batch, compute, "incidences")


def _projected(model: nn.Module, batch: TreeBatch, hidden_SD: Tensor) -> Tensor:
    head = output_head(model)
    return chunked_logps(
        hidden_SD,
        head.weight,
        head.bias,
        batch.target_ids,
        scale=head.scale,
        softcap=head.softcap,
    )


def path_logps(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(E,) log-probability of each response's scored tokens, response after response."""

    def compute(part: TreeBatch) -> Tensor:
        return token_logps(model, part).index_select(0, part.path_token)

    return trees_apart(model, batch, compute, "incidences")


def path_logps_and_values(
    model: nn.Module, value_head: nn.Module, batch: TreeBatch
) -> tuple[Tensor, Tensor]:
    """(E,) log-probabilities as above, and (E,) float32 what a critic on the same hidden states
    expects of the response before each of these tokens."""

    def compute(part: TreeBatch) -> Tensor:
        """(E, 2)"""
        hidden_SD = _before_scored(model, part)
        logps_S = _projected(model, part, hidden_SD)
        with torch.autocast(hidden_SD.device.type, enabled=False):  # rewards need more than bf16
            values_S = value_head(hidden_SD.float())[:, 0]
        return torch.stack([logps_S, values_S], dim=1).index_select(0, part.path_token)

    logps_E, values_E = trees_apart(model, batch, compute, "incidences").unbind(1)
    return logps_E, values_E


def tree_logps(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B,) log-probability of each response: the sum over its scored tokens."""
    return per_response(path_logps(model, batch), batch)


def per_response(values_E: Tensor, batch: TreeBatch) -> Tensor:
    """(B,) sums of (E,) values over the tokens of each response, in their dtype.

    The sum itself runs in float64 and is rounded once. One float32 after the other, thousands of
    tokens would lose hundredths of a nat on the way, and others than the padded way loses.
    """
    sums_B = values_E.new_zeros(len(batch.lengths), dtype=wide_dtype(values_E))
    sums_B = sums_B.index_add(0, batch.path_response, values_E.to(sums_B.dtype))
    return sums_B.to(values_E.dtype)


Score = Callable[[nn.Module, TreeBatch], Tensor]
"""(model, batch) -> (B,), or (B, features)."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """How a model is scored: `logps(model, batch) -> (B,)`, by name, with the reason in words."""

    name: str
    logps: Score
    reason: str


def scorer_for(model: nn.Module) -> Scorer:
    """Trees where the model takes them, measured on a probe, else the padded oracle."""
    return fitting_scorer(model, tree_logps, oracle_logps)


def fitting_scorer(model: nn.Module, tree: Score, oracle: Score) -> Scorer:
    """The one of two that gives the same: `tree` where the model takes trees, else `oracle`."""
    config = unwrap(model).config
    if is_encoder(config):
        reason = f"{config.model_type} is an encoder: a prompt looks different before each response"
        return oracle_scorer(model, oracle, reason)
    takes, reason = takes_trees(model)
    return Scorer("tree", tree, reason) if takes else oracle_scorer(model, oracle, reason)


def oracle_scorer(model: nn.Module, oracle: Score, reason: str) -> Scorer:
    """The padded oracle, which pads nothing where padding would change the model's numbers. Raises
    ModelError where these are others each time."""
    match sharing(model):
        case "one length":
            reason += "; padding changes its numbers, so only sequences of one length share a call"
        case "nothing":
            reason += "; neighbours change its numbers, so each sequence is read by itself"
        case "any":
            pass
    return Scorer("oracle", oracle, reason)
