"""The Python doors: load a model, score records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redpencil.data.group import number_responses
from redpencil.data.loader import all_once
from redpencil.data.packing import padded_cost, tree_cost
from redpencil.data.records import records_from_rows
from redpencil.data.tokenize import tokenize_records
from redpencil.errors import DataError, ModelError, RecipeError, did_you_mean
from redpencil.folders.targets import model_folder
from redpencil.models.check import check_examples
from redpencil.models.load import load_model, pick_device
from redpencil.models.tokenizer import context_length, load_tokenizer
from redpencil.scores.forward import scorer_for, tree_logps
from redpencil.scores.in_memory import in_memory
from redpencil.scores.oracle import oracle_logps
from redpencil.stages.tasks import in_precision
from redpencil.types import Record

SCORING_TOKENS = 8192
"""Distinct tokens in a micro-batch when nothing but scores is wanted."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context_length: int


def load(name: str | Path, *, trust_remote_code: bool = False) -> Loaded:
    """Load a model and its tokenizer: a Hugging Face folder, a run folder (its final model) or a
    Hub name; in float32 on a CPU and bfloat16 on CUDA. Raises ModelError."""
    source = model_folder(str(name))
    device = pick_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return Loaded(
        load_model(source, dtype=dtype, device=device, trust_remote_code=trust_remote_code),
        load_tokenizer(source, trust_remote_code=trust_remote_code),
        context_length(source, trust_remote_code=trust_remote_code),
    )


def logps(
    model: Loaded,
    records: Sequence[Record] | Sequence[Mapping[str, Any]],
    method: Literal["tree", "oracle"] = "tree",
    *,
    max_length: int | None = None,
    chat_template: str = "auto",
) -> list[list[float]]:
    """For each record, each response's log-probability given its prompt, summed over its tokens
    (nats; end of turn included).

    records: `Record`s, or rows as in a data file (prompt / chosen / rejected, prompt / responses,
    ...). method: "tree" feeds every distinct token once, "oracle" pads every sequence; they agree
    to rounding. Raises DataError where a row is malformed or cannot be scored whole, ModelError
    where the model cannot take a tree, RecipeError for an unknown method.
    """
    score = _method(model.model, method)
    taken = _as_records(records)
    tokens = tokenize_records(
        taken,
        model.tokenizer,
        max_length=max_length or model.context_length,
        chat_template=chat_template,
    )
    if tokens.dropped:
        first = tokens.dropped[0]
        raise DataError(f"{first.origin} cannot be scored: {first.reason} {first.detail}".rstrip())
    examples = number_responses(tokens.examples)
    check_examples(model.model, examples, "the model")
    device = next(model.model.parameters()).device
    scored = in_precision(score, device)
    flat = torch.zeros(sum(len(e.responses) for e in examples))
    cost = tree_cost if method == "tree" else padded_cost
    with torch.no_grad():
        for batch, logps in in_memory(
            all_once(examples, SCORING_TOKENS, cost),
            lambda laid: scored(model.model, laid.to(device)).cpu(),
        ):
            flat[batch.response_index] = logps
    values = iter(flat.tolist())
    return [[next(values) for _ in e.responses] for e in examples]


def _method(model: PreTrainedModel, method: str) -> Any:
    if method == "oracle":
        return oracle_logps
    if method != "tree":
        raise RecipeError(f"unknown method {method!r}{did_you_mean(method, ['tree', 'oracle'])}")
    scorer = scorer_for(model)
    if scorer.name != "tree":
        raise ModelError(f"this model cannot take trees: {scorer.reason}; use method='oracle'")
    return tree_logps


def _as_records(records: Sequence[Any]) -> list[Record]:
    if all(isinstance(r, Record) for r in records):
        return list(records)
    read = records_from_rows(records, purpose="preference")
    if read.dropped:
        first = read.dropped[0]
        raise DataError(f"{first.origin} cannot be scored: {first.reason} {first.detail}".rstrip())
    return list(read.records)
