"""From a recipe's data to the examples of a run: read, tokenize, split, group, and say so."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from redpencil.console import say, track, warn
from redpencil.data.chat import current_clock
from redpencil.data.group import MAX_GROUPED_RESPONSES
from redpencil.data.labelled import UNPAIRED
from redpencil.data.packing import common_beginnings
from redpencil.data.records import stream_records
from redpencil.data.sources import Spec, named
from redpencil.data.split import fraction_of, held_out_keys
from redpencil.data.store import KEY_BYTES, Examples, Store
from redpencil.data.tokenize import ExampleStream
from redpencil.data.tree import lay_tree
from redpencil.doctor.brief import Brief, tell
from redpencil.doctor.findings import Diagnosis
from redpencil.errors import DataError, RecipeError
from redpencil.folders.run import AnyRecipe
from redpencil.intervals import wilson_interval
from redpencil.models.kernels import share_heaps
from redpencil.models.load import pick_device
from redpencil.recipes.stages import Recipe, ResponsesRecipe
from redpencil.types import Dropped, Example

Purpose = Literal["preference", "sft"]

MEASURED_TREES = 5_000
"""Trees laid to state how many tokens sharing saves; more are sampled evenly."""
COMPARED_PROMPTS = 512
"""Prompts compared to tell how many begin alike; more are sampled evenly."""
WORTH_WARNING = 0.1
"""Share of rows lost to their length from which on that is a warning."""
WORTH_SAYING = 0.1
"""Share of prompts that begin alike from which on it is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The examples of a run, numbered, and the facts for `data.json`."""

    train: Examples
    evaluation: Examples
    dropped: list[Dropped]
    facts: dict[str, Any]
    fingerprint: str
    """Hash of all token ids in order: a resumed run must go on with the same."""
    diagnosis: Diagnosis | None = None
    """What a brief look at the data found."""
    eval_fraction: float | None = None
    """The share of prompts that was held out, where it was split off."""
    too_long: Sequence[int] = ()
    """Tokens of the rows that were set aside as too long."""


@dataclass(frozen=True, slots=True)
class _Read:
    store: Store
    dropped: list[Dropped]
    facts: dict[str, Any]
    diagnosis: Diagnosis
    too_long: Sequence[int]
    rows_of: Callable[[Iterable[Dropped]], list[Dropped]]
    """Of records set aside, one for each row that they were made of."""


def prepare(
    recipe: ResponsesRecipe, purpose: Purpose, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Prepared:
    """Read, tokenize and split the recipe's data.

    Raises DataError for malformed files and when nothing usable is left.
    """
    if pick_device().type == "cpu":
        share_heaps()
    main = other = _read(recipe.data, recipe, purpose, tokenizer, max_length)
    dropped = main.dropped
    fraction: float | None
    if recipe.eval_data is None:
        counts = main.store.comparisons if purpose == "preference" else main.store.responses
        fraction = fraction_of(recipe.eval_fraction, int(counts.sum()))
        held_out = _held_out(main.store, fraction=fraction, seed=recipe.seed)
        train_rows, eval_rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    else:
        fraction = None
        other = _read(recipe.eval_data, recipe, purpose, tokenizer, max_length)
        leaks = np.isin(main.store.prompt_keys, other.store.prompt_keys)
        train_rows, eval_rows = np.flatnonzero(~leaks), np.arange(len(other.store))
        leaked = (main.store[int(row)] for row in np.flatnonzero(leaks))
        reason = "prompt is in the evaluation data"
        dropped = [*main.dropped, *other.dropped]
        dropped += main.rows_of(Dropped(e.responses[0].origin, reason) for e in leaked)
    if not len(train_rows):
        raise DataError(f"{named(recipe.data)} leaves nothing to train on: {_reasons(dropped)}")
    train = Examples(main.store, train_rows, join_prompts=recipe.group_prompts)
    evaluation = Examples(other.store, eval_rows, join_prompts=recipe.group_prompts)
    rows_read = main.facts["rows_read"]
    rows_read += 0 if recipe.eval_data is None else other.facts["rows_read"]
    facts = {
        **main.facts,
        **({} if recipe.eval_data is None else _both(main.facts, other.facts)),
        "set_aside": dict(Counter(d.reason for d in dropped)),
        "rows_used": rows_read - len(dropped),
        **_sizes("train", train),
        **_sizes("eval", evaluation),
        **_tokens(train),
    }
    prepared = Prepared(
        train=train,
        evaluation=evaluation,
        dropped=dropped,
        facts=facts,
        fingerprint=_fingerprint(chain(train, evaluation)),
        diagnosis=main.diagnosis,
        eval_fraction=fraction,
        too_long=[*main.too_long, *([] if other is main else other.too_long)],
    )
    _tell(recipe, prepared, max_length)
    return prepared


def dated(recipe: AnyRecipe) -> AnyRecipe:
    """With the date that chat templates print, where one did of what was rendered so far; says so.
    A run that is resumed goes on with it. Raises RecipeError for a date that nothing prints."""
    clock = current_clock()
    if not clock.asked:
        if recipe.template_date is not None:
            raise RecipeError(
                "--template-date does nothing here: no chat template of this run prints the date"
            )
        return recipe
    day = clock.moment.date().isoformat()
    say(
        f"template  the chat template prints the date: {day} in this run, also where it is resumed "
        "on another day (--template-date names another)"
    )
    return recipe.model_copy(update={"template_date": day})


def _read(
    spec: Spec,
    recipe: Recipe,
    purpose: Purpose,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> _Read:
    records = stream_records(spec, purpose=purpose, columns=recipe.columns or None)
    brief = Brief()
    examples = ExampleStream(
        brief.watch(records),
        tokenizer,
        max_length=max_length,
        chat_template=recipe.chat_template,
    )
    store = Store(examples)
    facts = {
        "source": named(spec),
        "shape": records.shape,
        "rows_read": records.rows_read,
        "records": len(store),
        "truncated_prompts": examples.truncated,
        "notes": [*records.notes, *examples.notes],
    }
    diagnosis = brief.diagnosis(
        named(spec), records.shape, records.rows_read, records.dropped, examples.dropped
    )
    dropped = [*records.dropped, *brief.rows_of(examples.dropped)]
    return _Read(store, dropped, facts, diagnosis, examples.too_long, brief.rows_of)


def _both(train: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the data of a run whose evaluation has a source of its own."""
    added = ("rows_read", "records", "truncated_prompts")
    source = evaluation["source"]
    return {
        "source": f"{train['source']} and {source}",
        **{name: train[name] + evaluation[name] for name in added},
        "notes": [*train["notes"], *(f"{source}: {note}" for note in evaluation["notes"])],
    }


def _held_out(store: Store, *, fraction: float, seed: int) -> np.ndarray:
    """(examples,) bool: those whose prompt goes to the evaluation."""
    distinct = np.unique(store.prompt_keys)
    names = (key.ljust(KEY_BYTES, b"\0").hex() for key in distinct)  # numpy drops closing zeros
    chosen = held_out_keys(names, len(distinct), fraction=fraction, seed=seed)
    wanted = np.array([bytes.fromhex(key) for key in chosen], dtype=distinct.dtype)
    return np.isin(store.prompt_keys, wanted)


def _sizes(side: str, examples: Examples) -> dict[str, int]:
    """How many of what there is, as docs/data.md counts them."""
    return {
        f"{side}_prompts": examples.prompt_count,
        f"{side}_pairs": examples.pair_count,
        f"{side}_responses": examples.response_count,
        f"{side}_trees": len(examples),
    }


def _tokens(examples: Examples) -> dict[str, float]:
    """Token slots as padded pairs would take, and distinct tokens in trees."""
    stride = -(-len(examples) // MEASURED_TREES)
    sampled = examples[::stride]
    trees = [lay_tree(e) for e in track(sampled, what="laying trees", total=len(sampled))]
    scale = len(examples) / len(trees)
    return {
        "tokens_padded": round(scale * sum(t.padded_tokens for t in trees)),
        "tokens_distinct": round(scale * sum(t.tokens for t in trees)),
        **_beginnings([t.prompt_ids for t in trees[:: -(-len(trees) // COMPARED_PROMPTS)]]),
    }


def _beginnings(prompts: Sequence[np.ndarray]) -> dict[str, float]:
    """Share of prompts that begin as another does, and with how many tokens these do (median)."""
    alike = common_beginnings(prompts)
    most = np.zeros(len(prompts)) if alike is None else alike.max(axis=1)
    shared = most[most > 0]
    return {
        "prompts_alike": len(shared) / len(prompts),
        "tokens_alike": int(np.median(shared)) if len(shared) else 0,
    }


def _fingerprint(examples: Iterable[Example]) -> str:
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
    if all(d.reason == UNPAIRED for d in dropped):
        return (
            f"no prompt has a true and a false response (or a better and a worse one), so its "
            f"{len(dropped):,} rows make no pair; sample more responses to the same prompts "
            "(redpencil generate), or train on the true ones with redpencil sft (first: "
            f"{dropped[0].origin})"
        )
    counted = Counter(d.reason for d in dropped).most_common()
    first = dropped[0]
    detail = f", {first.detail}" if first.detail else ""
    return (
        f"{', '.join(f'{n} x {reason}' for reason, n in counted)} (first: {first.origin}{detail})"
    )


def _known_to(pairs: int) -> str:
    """How exactly so many held-out pairs will tell an accuracy."""
    if not pairs:
        return ""
    low, high = wilson_interval(0.5, pairs)
    return f" (an accuracy will be known to about {100 * (high - low) / 2:.0f} points)"


def _lost_by_length(prepared: Prepared, rows: int, max_length: int) -> str:
    """What --max-length costs, and which would keep more; empty where it costs little."""
    lengths = np.sort(np.array(prepared.too_long))
    if len(lengths) < WORTH_WARNING * rows:
        return ""
    half, most = int(lengths[(len(lengths) - 1) // 2]), int(lengths[-1])
    keep = (
        f"--max-length {most} would keep all"
        if most == half
        else (f"--max-length {half} would keep half of them, {most} all")
    )
    return (
        f"{len(lengths):,} of {rows:,} rows are too long for --max-length {max_length} even with a "
        f"shortened prompt and are set aside; {keep} (as far as the model takes it)"
    )


def _tell(recipe: ResponsesRecipe, prepared: Prepared, max_length: int) -> None:
    facts = prepared.facts
    say(f"data      {facts['source']}: {facts['rows_read']:,} rows, {facts['shape']}")
    if prepared.dropped:
        counted = Counter(d.reason for d in prepared.dropped).most_common()
        total = sum(n for _, n in counted)
        listed = ", ".join(f"{reason} {n:,}" for reason, n in counted)
        say(
            f"          {total:,} rows set aside ({listed}), listed in dropped.jsonl; "
            f"{facts['rows_used']:,} used"
        )
    if sentence := _lost_by_length(prepared, facts["rows_read"], max_length):
        warn(sentence)
    for note in facts["notes"]:
        warn(note)
    say(
        f"          train: {facts['train_prompts']:,} prompts, {facts['train_responses']:,} "
        f"responses, {facts['train_pairs']:,} pairs; evaluation: {facts['eval_prompts']:,} "
        f"prompts, {facts['eval_pairs']:,} pairs{_known_to(facts['eval_pairs'])}"
    )
    if recipe.group_prompts and facts["train_trees"] != facts["train_prompts"]:
        say(
            f"          trained on in {facts['train_trees']:,} trees: a prompt with more than "
            f"{MAX_GROUPED_RESPONSES} responses is several, prompts that became the same tokens "
            "are one; batches and progress count trees"
        )
    about = "about " if len(prepared.train) > MEASURED_TREES else ""
    say(
        f"          {about}{facts['tokens_distinct']:,} distinct tokens where padded sequences "
        f"would take {facts['tokens_padded']:,}"
    )
    if facts["prompts_alike"] >= WORTH_SAYING:
        say(
            f"          {facts['prompts_alike']:.0%} of the prompts begin as another does (median "
            f"{facts['tokens_alike']:,} tokens); trees in one micro-batch share that, too"
        )
    if not prepared.evaluation:
        warn("nothing is held out for evaluation, so nothing can say whether training helped")
    if prepared.diagnosis is not None:
        tell(prepared.diagnosis)
