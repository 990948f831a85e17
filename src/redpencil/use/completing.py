"""Completions of prompts as text, from a loaded model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from redpencil.console import progress_bar
from redpencil.data.loader import all_once
from redpencil.data.packing import padded_cost, tree_cost
from redpencil.data.prompts import prompt_of
from redpencil.data.render import Refused
from redpencil.data.tokenize import PromptIds, prompt_ids, readable
from redpencil.errors import DataError
from redpencil.fit.fitting import end_token_ids
from redpencil.rollout.sample import as_examples, sample
from redpencil.scores.divergence import oracle_distributions, response_kl, tree_distributions
from redpencil.scores.forward import scorer_for
from redpencil.scores.in_memory import in_memory
from redpencil.stages.tasks import in_precision
from redpencil.types import TreeBatch
from redpencil.use.api import SCORING_TOKENS, Loaded
from redpencil.use.labelling import Asked

_EMPTY = "an empty prompt cannot be continued: this tokenizer has no start token"


def complete(
    loaded: Loaded,
    prompts: Sequence[np.ndarray],
    *,
    num: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    chat_template: str,
    what: str = "sampling",
) -> list[list[str]]:
    """`num` completions of each prompt's ids. chat_template: by which they were rendered, and end a
    turn. what: labels the progress bar."""
    with progress_bar() as bar:
        row = bar.add_task(what, total=len(prompts))
        drawn = sample(
            loaded.model,
            prompts,
            num=num,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            progress=lambda done: bar.advance(row, done),
            **ends(loaded, chat_template),
        )
    return [
        [readable(c, loaded.tokenizer, after=p) for c in each]
        for p, each in zip(prompts, drawn, strict=True)
    ]


def ids_of(loaded: Loaded, content: Any, chat_template: str) -> np.ndarray:
    """(P,) int32: what generation sees of a prompt (text or messages), not empty. Raises
    DataError."""
    ids = prompt_ids(prompt_of(content), loaded.tokenizer, chat_template=chat_template)
    if not len(ids):
        raise DataError(_EMPTY)
    return ids


def ids_of_rows(loaded: Loaded, asked: Sequence[Asked], chat_template: str) -> list[np.ndarray]:
    """Of each prompt of some data, with its tools. Raises DataError with the row's name."""
    to_ids = PromptIds(loaded.tokenizer, chat_template)
    found = []
    for one in asked:
        content = one.content if isinstance(one.content, str) else tuple(one.content)
        try:
            ids = to_ids(content, one.tools, one.origin)
        except Refused as error:
            raise DataError(f"{one.origin}: {error.reason}: {error.detail}") from error
        if not len(ids):
            raise DataError(f"{one.origin}: {_EMPTY}")
        found.append(ids)
    return found


def ends(loaded: Loaded, chat_template: str) -> dict[str, Any]:
    """`sample`'s end and padding tokens for a model."""
    found = end_token_ids(loaded.model, loaded.tokenizer, chat_template)
    return {"eos_ids": found, "pad_id": found[0]}


@torch.no_grad()
def logps_of(
    loaded: Loaded, prompts: Sequence[np.ndarray], completions: Sequence[Sequence[np.ndarray]]
) -> np.ndarray:
    """log pi(y|x) of M completions of each of P prompts, all as token ids: (P, M) float64, nats."""
    scorer = scorer_for(loaded.model)
    device = next(loaded.model.parameters()).device
    score = in_precision(scorer.logps, device)
    cost = tree_cost if scorer.name == "tree" else padded_cost
    flat = torch.zeros(sum(len(each) for each in completions), dtype=torch.float64)
    for batch, logps in in_memory(
        all_once(as_examples(prompts, completions), SCORING_TOKENS, cost),
        lambda laid: score(loaded.model, laid.to(device)).cpu().double(),
    ):
        flat[batch.response_index] = logps
    return flat.numpy().reshape(len(prompts), -1)


@torch.no_grad()
def kl_of(
    policy: Loaded,
    reference: Loaded,
    prompts: Sequence[np.ndarray],
    completions: Sequence[Sequence[np.ndarray]],
) -> np.ndarray:
    """KL(policy || reference) of M completions of each of P prompts, drawn from the policy:
    (P, M) float64, nats, never below 0 (`scores.divergence`). Both read the same token ids."""
    trees = [scorer_for(loaded.model).name == "tree" for loaded in (policy, reference)]
    device = next(policy.model.parameters()).device
    ours, theirs = (
        in_precision(tree_distributions if is_tree else oracle_distributions, device)
        for is_tree in trees
    )

    def found(laid: TreeBatch) -> torch.Tensor:
        batch = laid.to(device)
        return response_kl(ours(policy.model, batch), theirs(reference.model, batch), batch)

    flat = torch.zeros(sum(len(each) for each in completions), dtype=torch.float64)
    cost = tree_cost if all(trees) else padded_cost
    laid = all_once(as_examples(prompts, completions), SCORING_TOKENS, cost)
    for batch, kl in in_memory(laid, found):
        flat[batch.response_index] = kl
    return flat.numpy().reshape(len(prompts), -1)
