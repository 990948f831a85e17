"""From a recipe's data to the examples of a run: read, tokenize, split, group, and say so."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from redpencil.console import say, track, warn
from redpencil.data.records import load_records
from redpencil.data.split import split_by_prompt
from redpencil.data.tokenize import tokenize_records
from redpencil.data.tree import group_by_prompt, lay_tree, number_responses
from redpencil.errors import DataError
from redpencil.recipes.stages import Recipe, ResponsesRecipe
from redpencil.types import Dropped, Example

Purpose = Literal["preference", "sft"]

MEASURED_TREES = 5_000
"""Trees laid to state how many tokens sharing saves; more are sampled evenly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The examples of a run, numbered, and the facts for `data.json`."""

    train: list[Example]
    evaluation: list[Example]
    dropped: list[Dropped]
    facts: dict[str, Any]
    fingerprint: str
    """Hash of all token ids in order: a resumed run must go on with the same."""


@dataclass(frozen=True, slots=True)
class _Read:
    examples: list[Example]
    dropped: list[Dropped]
    facts: dict[str, Any]


def prepare(
    recipe: ResponsesRecipe, purpose: Purpose, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Prepared:
    """Read, tokenize and split the recipe's data.

    Raises DataError for malformed files and when nothing usable is left.
    """
    main = _read(recipe.data, recipe, purpose, tokenizer, max_length)
    if recipe.eval_data is None:
        train, held_out = split_by_prompt(
            main.examples, fraction=recipe.eval_fraction, seed=recipe.seed
        )
        dropped = main.dropped
    else:
        other = _read(recipe.eval_data, recipe, purpose, tokenizer, max_length)
        train, leaked = _without_prompts_of(main.examples, other.examples)
        held_out, dropped = other.examples, [*main.dropped, *other.dropped, *leaked]
    if not train:
        raise DataError(f"{recipe.data} leaves nothing to train on: {_reasons(dropped)}")
    joined = group_by_prompt if recipe.group_prompts else number_responses
    train, held_out = joined(train), joined(held_out)
    facts = {
        **main.facts,
        "set_aside": dict(Counter(d.reason for d in dropped)),
        **_sizes("train", train),
        **_sizes("eval", held_out),
        **_tokens(train),
    }
    prepared = Prepared(
        train=train,
        evaluation=held_out,
        dropped=dropped,
        facts=facts,
        fingerprint=_fingerprint([*train, *held_out]),
    )
    _tell(recipe, prepared)
    return prepared


def _read(
    spec: str,
    recipe: Recipe,
    purpose: Purpose,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> _Read:
    rows = load_records(spec, purpose=purpose, columns=recipe.columns or None)
    tokens = tokenize_records(
        rows.records, tokenizer, max_length=max_length, chat_template=recipe.chat_template
    )
    facts = {
        "source": spec,
        "shape": rows.shape,
        "rows_read": rows.rows_read,
        "records": len(tokens.examples),
        "truncated_prompts": tokens.truncated,
        "notes": [*rows.notes, *tokens.notes],
    }
    return _Read(tokens.examples, [*rows.dropped, *tokens.dropped], facts)


def _without_prompts_of(
    examples: Sequence[Example], held_out: Sequence[Example]
) -> tuple[list[Example], list[Dropped]]:
    """Training examples whose prompt is not evaluated on, and the rest as set aside."""
    keys = {e.prompt_key for e in held_out}
    leaked = [
        Dropped(e.responses[0].origin, "prompt is in the evaluation data")
        for e in examples
        if e.prompt_key in keys
    ]
    return [e for e in examples if e.prompt_key not in keys], leaked


def _sizes(side: str, examples: Sequence[Example]) -> dict[str, int]:
    return {
        f"{side}_prompts": len({e.prompt_key for e in examples}),
        f"{side}_pairs": sum(len(e.comparisons) for e in examples),
        f"{side}_responses": sum(len(e.responses) for e in examples),
    }


def _tokens(examples: Sequence[Example]) -> dict[str, int]:
    """Token slots as padded pairs would take, and distinct tokens in trees."""
    stride = -(-len(examples) // MEASURED_TREES)
    sampled = examples[::stride]
    trees = [lay_tree(e) for e in track(sampled, what="laying trees", total=len(sampled))]
    scale = len(examples) / len(trees)
    return {
        "tokens_padded": round(scale * sum(t.padded_tokens for t in trees)),
        "tokens_distinct": round(scale * sum(t.tokens for t in trees)),
        "largest_tree": max(t.tokens for t in trees),
    }


def _fingerprint(examples: Sequence[Example]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(example.prompt_ids.tobytes())
        for response in example.responses:
            digest.update(np.int64(len(response.ids)).tobytes() + response.ids.tobytes())
        for c in example.comparisons:
            digest.update(repr((c.chosen, c.rejected, c.weight, c.margin, c.probability)).encode())
    return digest.hexdigest()


def _reasons(dropped: Sequence[Dropped]) -> str:
    if not dropped:
        return "it has no usable rows"
    counted = Counter(d.reason for d in dropped).most_common()
    first = dropped[0]
    return f"{', '.join(f'{n} x {reason}' for reason, n in counted)} (first: {first.origin})"


def _tell(recipe: Recipe, prepared: Prepared) -> None:
    facts = prepared.facts
    say(f"data      {facts['source']}: {facts['rows_read']:,} rows, {facts['shape']}")
    if prepared.dropped:
        counted = Counter(d.reason for d in prepared.dropped).most_common()
        total = sum(n for _, n in counted)
        listed = ", ".join(f"{reason} {n:,}" for reason, n in counted)
        say(f"          {total:,} rows set aside ({listed}), listed in dropped.jsonl")
    for note in facts["notes"]:
        warn(note)
    say(
        f"          train: {facts['train_prompts']:,} prompts, {facts['train_responses']:,} "
        f"responses, {facts['train_pairs']:,} pairs; evaluation: {facts['eval_prompts']:,} "
        f"prompts, {facts['eval_pairs']:,} pairs"
    )
    say(
        f"          {facts['tokens_distinct']:,} distinct tokens where padded sequences would "
        f"take {facts['tokens_padded']:,}"
    )
    if not prepared.evaluation:
        warn("nothing is held out for evaluation, so nothing can say whether training helped")
