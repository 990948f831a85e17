"""The Python doors: load a model, score records."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redpencil.data.group import number_responses
from redpencil.data.loader import all_once
from redpencil.data.packing import padded_cost, tree_cost
from redpencil.data.records import records_from_rows
from redpencil.data.tokenize import tokenize_records
from redpencil.errors import DataError, ModelError, RecipeError, did_you_mean, not_a
from redpencil.folders.targets import model_folder
from redpencil.models.check import check_examples
from redpencil.models.head import unwrap
from redpencil.models.load import load_model, pick_device
from redpencil.models.tokenizer import context_length, load_tokenizer, positions_of
from redpencil.scores.forward import scorer_for, tree_logps
from redpencil.scores.in_memory import in_memory
from redpencil.scores.oracle import oracle_logps
from redpencil.stages.tasks import in_precision
from redpencil.types import Example, Record

SCORING_TOKENS = 8192
"""Distinct tokens in a micro-batch when nothing but scores is wanted."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context_length: int


Model: TypeAlias = Loaded | PreTrainedModel | PeftModel | str | Path
"""What a Python function takes for a language model: of `load`, in memory, or by its name."""


def load(name: str | Path, *, trust_remote_code: bool = False) -> Loaded:
    """Load a model and its tokenizer: a Hugging Face folder, a run folder (its final model) or a
    Hub name; in float32 on a CPU and bfloat16 on CUDA. Raises ModelError."""
    if not isinstance(name, str | Path):
        raise not_a("load", "a folder or a Hub name", name)
    source = model_folder(str(name))
    device = pick_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return Loaded(
        load_model(source, dtype=dtype, device=device, trust_remote_code=trust_remote_code),
        load_tokenizer(source, trust_remote_code=trust_remote_code),
        context_length(source, trust_remote_code=trust_remote_code),
    )


def as_loaded(model: Any, tokenizer: Any = None, *, what: str = "this") -> Loaded:
    """A model however it is given (`Model`). what: the function that was given it. Raises
    RecipeError for anything else, ModelError where it cannot write."""
    if isinstance(model, PreTrainedModel | PeftModel):
        return _in_memory_model(model, tokenizer, what)
    if tokenizer is not None:
        raise RecipeError(f"{what}: tokenizer does nothing here: a loaded model has its own")
    if isinstance(model, Loaded):
        return model
    if isinstance(model, str | Path):
        return load(model)
    raise not_a(
        what,
        "a model: of redpencil.load, a folder's or a Hub name, or a transformers model with its "
        "tokenizer",
        model,
    )


def _in_memory_model(model: PreTrainedModel | PeftModel, tokenizer: Any, what: str) -> Loaded:
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise not_a(f"{what}: a model in memory", "its tokenizer beside it (tokenizer=)", tokenizer)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{what}: the tokenizer has no end-of-sequence token")
    causal: Any = unwrap(model)
    if causal.config.is_encoder_decoder or causal.get_output_embeddings() is None:
        raise ModelError(f"{what}: {type(causal).__name__} is no causal language model")
    return Loaded(cast(PreTrainedModel, model), tokenizer, positions_of(causal.config))


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Inside, a model is in evaluation mode and may be made to attend over trees; whoever gave it
    finds it in the modes, and with the attention, that it had."""
    causal: Any = unwrap(model)
    modes = {module: module.training for module in model.modules()}
    attention = causal.config._attn_implementation
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        if causal.config._attn_implementation != attention:
            causal.set_attn_implementation(attention)


def logps(
    model: Model,
    records: Sequence[Record] | Sequence[Mapping[str, Any]],
    method: Literal["tree", "oracle"] = "tree",
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    chat_template: str | Path = "auto",
) -> list[list[float]]:
    """For each record, each response's log-probability given its prompt, summed over its tokens
    (nats; end of turn included).

    model: from `load`, a folder's or Hub name, or a transformers (or peft) model in memory with its
    `tokenizer`, which is left as it was. records: `Record`s, or rows as in a data file (prompt /
    chosen / rejected, prompt / responses, ...). method: "tree" feeds every distinct token once,
    "oracle" pads every sequence; they agree to rounding. Raises DataError where a row is malformed
    or cannot be scored whole, ModelError where the model cannot take a tree, RecipeError for an
    argument that is none of these.
    """
    loaded = as_loaded(model, tokenizer, what="logps")
    taken = _as_records(records)
    tokens = tokenize_records(
        taken,
        loaded.tokenizer,
        max_length=whole_number("logps: max_length", max_length, 2) or loaded.context_length,
        chat_template=os.fspath(chat_template),
    )
    if tokens.dropped:
        first = tokens.dropped[0]
        raise DataError(f"{first.origin} cannot be scored: {first.reason} {first.detail}".rstrip())
    examples = number_responses(tokens.examples)
    check_examples(loaded.model, examples, "the model")
    with _left_as_it_was(loaded.model):
        return _scored(loaded.model, examples, method)


def _scored(model: PreTrainedModel, examples: list[Example], method: str) -> list[list[float]]:
    score = _method(model, method)
    device = next(model.parameters()).device
    scored = in_precision(score, device)
    flat = torch.zeros(sum(len(e.responses) for e in examples))
    cost = tree_cost if method == "tree" else padded_cost
    with torch.no_grad():
        for batch, logps in in_memory(
            all_once(examples, SCORING_TOKENS, cost),
            lambda laid: scored(model, laid.to(device)).cpu(),
        ):
            flat[batch.response_index] = logps
    values = iter(flat.tolist())
    return [[next(values) for _ in e.responses] for e in examples]


def _method(model: PreTrainedModel, method: str) -> Any:
    if method == "oracle":
        return oracle_logps
    if method != "tree":
        known = did_you_mean(str(method), ["tree", "oracle"])
        raise RecipeError(f"unknown method {method!r}{known}")
    scorer = scorer_for(model)
    if scorer.name != "tree":
        raise ModelError(f"this model cannot take trees: {scorer.reason}; use method='oracle'")
    return tree_logps


def whole_number(what: str, value: Any, least: int) -> int | None:
    """An argument that may be left out (None). Raises RecipeError."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if value is not None and not whole:
        raise not_a(what, f"a whole number of at least {least}", value)
    return cast("int | None", value)


def _as_records(records: Any) -> list[Record]:
    wanted = "a list of rows (mappings) or of Records"
    if isinstance(records, Mapping | Record):
        raise RecipeError(f"logps takes {wanted}, got one of them; put it in a list")
    if isinstance(records, str | bytes | os.PathLike) or not isinstance(records, Iterable):
        raise not_a("logps", wanted, records)
    taken = list(records)
    for number, row in enumerate(taken, start=1):
        if not isinstance(row, Mapping | Record) or isinstance(row, Record) != isinstance(
            taken[0], Record
        ):
            raise not_a(f"logps, row {number},", f"{wanted}, all of one kind;", row)
    if not taken or isinstance(taken[0], Record):
        for number, record in enumerate(taken, start=1):
            if not isinstance(record.responses, tuple | list):
                raise not_a(f"logps, row {number}: responses", "a tuple", record.responses)
        return taken
    read = records_from_rows(taken, purpose="preference")
    if read.dropped:
        first = read.dropped[0]
        raise DataError(f"{first.origin} cannot be scored: {first.reason} {first.detail}".rstrip())
    return list(read.records)
