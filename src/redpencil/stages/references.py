"""The reference of a run: found in the cache, computed in one pass, or asked live."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redpencil.console import track
from redpencil.data.loader import all_once
from redpencil.data.packing import Cost, padded_cost, tree_cost
from redpencil.data.store import Examples
from redpencil.fit.fitting import choose_scorer
from redpencil.models.check import check_examples
from redpencil.models.load import disable_dropout, load_model, unload
from redpencil.models.tokenizer import load_tokenizer, require_same_tokens
from redpencil.recipes.stages import DpoRecipe
from redpencil.scores.cache import ReferenceCache
from redpencil.scores.divergence import (
    Distributions,
    NextTokens,
    oracle_distributions,
    tree_distributions,
)
from redpencil.scores.forward import path_logps
from redpencil.scores.oracle import oracle_path_logps
from redpencil.scores.reference import (
    adapter_off_reference,
    frozen_reference,
    reference_logps,
)
from redpencil.stages.prepare import Prepared
from redpencil.stages.tasks import Reference, Score, in_precision
from redpencil.types import TreeBatch

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Reference log-probabilities of the run's responses, and the reference itself on demand.

    train, evaluation: (responses,) float32 by response index.
    """

    train: np.ndarray
    evaluation: np.ndarray
    token_score: Score
    """(E,) log-probabilities of all scored tokens."""
    distributions: Distributions
    path: str | None
    """Where the reference is loaded from; None: the policy with its adapters off."""
    trust_remote_code: bool

    @contextmanager
    def live_tokens(self, policy: PreTrainedModel) -> Iterator[Reference]:
        """The reference as a function of fresh batches: (E,) log-probabilities of their scored
        tokens. A separate model is freed afterwards."""
        with self._live(policy, self.token_score) as reference:
            yield reference

    @contextmanager
    def live_distributions(
        self, policy: PreTrainedModel
    ) -> Iterator[Callable[[TreeBatch], NextTokens]]:
        """The same, with the whole distribution that each token came from."""
        with self._live(policy, self.distributions) as reference:
            yield reference

    @contextmanager
    def _live(
        self, policy: PreTrainedModel, score: Callable[[nn.Module, TreeBatch], Found]
    ) -> Iterator[Callable[[TreeBatch], Found]]:
        if self.path is None:
            yield adapter_off_reference(policy, score)
            return
        parameter = next(policy.parameters())
        model = load_model(
            self.path,
            dtype=parameter.dtype,
            device=parameter.device,
            trust_remote_code=self.trust_remote_code,
        )
        try:
            yield frozen_reference(model, score)
        finally:
            unload(model)


def find_references(
    recipe: DpoRecipe,
    model: PreTrainedModel,
    score: Score,
    cost: Cost,
    prepared: Prepared,
    start: str,
    fingerprint: str,
    tokenizer: PreTrainedTokenizerBase,
) -> References:
    path = start if recipe.reference in ("base", "preferred-ft") else recipe.reference
    adapters_off = path == start and recipe.lora_rank > 0
    if path == start:
        reference = model
    else:
        reference = _other_model(recipe, model, tokenizer, prepared)
        scorer = choose_scorer(recipe, reference, path)
        score = in_precision(scorer.logps, next(model.parameters()).device)
        cost = tree_cost if scorer.name == "tree" else padded_cost
    autocast = torch.bfloat16 if next(model.parameters()).device.type == "cuda" else None
    known = fingerprint if path == start else None
    cache = (
        ReferenceCache.of(reference, autocast=autocast, fingerprint=known) if recipe.cache else None
    )

    def values(examples: Examples, which: str) -> np.ndarray:
        return reference_logps(
            reference,
            score,
            examples,
            lay=lambda missing: all_once(missing, recipe.token_budget, cost),
            cache=cache,
            track=lambda batches, total: track(
                batches, what=f"reference, {which}", total=total, size=lambda b: len(b.examples)
            ),
        )

    train = values(prepared.train, "training")
    evaluation = values(prepared.evaluation, "evaluation")
    if reference is not model:
        unload(reference)
    device = next(model.parameters()).device
    is_tree = cost is tree_cost
    return References(
        train=train,
        evaluation=evaluation,
        token_score=in_precision(path_logps if is_tree else oracle_path_logps, device),
        distributions=in_precision(tree_distributions if is_tree else oracle_distributions, device),
        path=None if adapters_off else path,
        trust_remote_code=recipe.trust_remote_code,
    )


def _other_model(
    recipe: DpoRecipe,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prepared: Prepared,
) -> PreTrainedModel:
    """A reference of its own. Raises ModelError where it does not read the policy's tokens."""
    name = recipe.reference
    own = load_tokenizer(name, trust_remote_code=recipe.trust_remote_code)
    require_same_tokens(tokenizer, own, name=recipe.model, reference=name)
    parameter = next(policy.parameters())
    model = load_model(
        name,
        dtype=parameter.dtype,
        device=parameter.device,
        trust_remote_code=recipe.trust_remote_code,
    )
    disable_dropout(model)
    check_examples(model, chain(prepared.train, prepared.evaluation), name)
    return model
