"""The prompts of an RL run: read, split, and said on screen."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from redpencil.console import say, warn
from redpencil.data.prompts import Prompt, load_prompts, text_of
from redpencil.data.sources import named
from redpencil.data.split import fraction_of, split_by_prompt
from redpencil.doctor.brief import brief_of_prompts, tell
from redpencil.doctor.findings import Diagnosis
from redpencil.errors import DataError
from redpencil.recipes.stages import RlRecipe
from redpencil.types import Dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPrompts:
    """The prompts of a run, and the facts for `data.json`."""

    train: list[Prompt]
    evaluation: list[Prompt]
    dropped: list[Dropped]
    facts: dict[str, Any]
    fingerprint: str
    diagnosis: Diagnosis | None = None
    """What a brief look at the prompts found."""
    eval_fraction: float | None = None
    """The share of prompts that was held out, where it was split off."""


def prepare_prompts(
    recipe: RlRecipe, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> PreparedPrompts:
    """Read the prompts and split off those to evaluate on. Raises DataError."""
    room = max_length - recipe.max_new_tokens
    if room < 1:
        raise DataError(
            f"--max-new-tokens {recipe.max_new_tokens} leaves no room for a prompt within "
            f"{max_length} tokens"
        )
    read = partial(
        load_prompts,
        tokenizer=tokenizer,
        room=room,
        chat_template=recipe.chat_template,
        columns=recipe.columns or None,
    )
    sources = [spec for spec in (recipe.data, recipe.eval_data) if spec is not None]
    main, *others = map(read, sources)
    if not others:
        fraction = fraction_of(recipe.eval_fraction, len(main.prompts))
        train, evaluation = split_by_prompt(main.prompts, fraction=fraction, seed=recipe.seed)
        dropped = main.dropped
    else:
        other = others[0]
        known = {p.ids.tobytes() for p in other.prompts}
        train = [p for p in main.prompts if p.ids.tobytes() not in known]
        leaked = [
            Dropped(p.origin, "prompt is in the evaluation data")
            for p in main.prompts
            if p.ids.tobytes() in known
        ]
        evaluation, dropped = other.prompts, [*main.dropped, *other.dropped, *leaked]
    if not train:
        raise DataError(f"{named(recipe.data)} leaves no prompts to train on")
    for prompt in (*train, *evaluation):
        text_of(prompt.content, prompt.origin)
    notes = dict.fromkeys(note for found in (main, *others) for note in found.notes)
    facts: dict[str, Any] = {
        "source": " and ".join(map(named, sources)),
        "shape": "prompts",
        "rows_read": sum(found.rows_read for found in (main, *others)),
        "records": sum(len(found.prompts) for found in (main, *others)),
        "rows_used": sum(found.rows_read for found in (main, *others)) - len(dropped),
        "train_prompts": len(train),
        "eval_prompts": len(evaluation),
        "notes": list(notes),
        "set_aside": dict(Counter(d.reason for d in dropped)),
    }
    prepared = PreparedPrompts(
        train=train,
        evaluation=evaluation,
        dropped=dropped,
        facts=facts,
        fingerprint=_fingerprint([*train, *evaluation]),
        eval_fraction=None if others else fraction,
        diagnosis=brief_of_prompts(named(recipe.data), main, train, evaluation),
    )
    _tell(prepared)
    return prepared


def _fingerprint(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        digest.update(np.int64(len(prompt.ids)).tobytes() + prompt.ids.tobytes())
        # The reward sees the row: another reference answer is another run.
        digest.update(json.dumps(dict(prompt.row), sort_keys=True, default=repr).encode())
    return digest.hexdigest()


def _tell(prepared: PreparedPrompts) -> None:
    facts = prepared.facts
    say(
        f"data      {facts['source']}: {facts['rows_read']:,} rows; train: "
        f"{facts['train_prompts']:,} prompts, evaluation: {facts['eval_prompts']:,}"
    )
    for note in facts["notes"]:
        say(f"          {note}")
    for reason, count in facts["set_aside"].items():
        say(f"          {count:,} rows set aside ({reason}), listed in dropped.jsonl")
    if not prepared.evaluation:
        warn("nothing is held out for evaluation, so nothing can say whether training helped")
    if prepared.diagnosis is not None:
        tell(prepared.diagnosis)
