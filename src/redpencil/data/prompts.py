"""Prompts to be answered: for rollouts, where no responses are given."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from redpencil.data.contents import Row
from redpencil.data.records import load_records
from redpencil.data.rows import with_system
from redpencil.data.sources import read_rows
from redpencil.data.split import prompt_key
from redpencil.data.tokenize import prompt_ids
from redpencil.errors import DataError, did_you_mean
from redpencil.types import Content, Dropped, Origin


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """One prompt. ids: (P,) int32, what generation sees; row: the data row it came from."""

    ids: np.ndarray
    content: Content
    prompt_key: str
    row: Mapping[str, Any]
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Different prompts in order of first appearance, rows set aside, and how many were read."""

    prompts: list[Prompt]
    dropped: list[Dropped]
    rows_read: int


def load_prompts(
    spec: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    room: int,
    chat_template: str = "auto",
    columns: Mapping[str, str] | None = None,
) -> PromptSet:
    """The prompts of a data file, folder or Hub data set.

    Rows have a column `prompt` (text or messages) and may have `system`, or are preferences, whose
    prompts are taken; whatever else they hold goes to the reward. room: most tokens of a prompt;
    longer ones are set aside. Equal prompts are taken once. Raises DataError.
    """
    rows = list(read_rows(spec, columns=columns))
    found: list[Prompt] = []
    dropped: list[Dropped] = []
    seen: set[bytes] = set()
    for origin, content, row in _contents(spec, rows, columns, dropped):
        ids = prompt_ids(content, tokenizer, chat_template=chat_template)
        unusable = _unusable(origin, ids, room, seen)
        if unusable:
            dropped.append(unusable)
            continue
        seen.add(ids.tobytes())
        found.append(
            Prompt(ids=ids, content=content, prompt_key=prompt_key(content), row=row, origin=origin)
        )
    if not found:
        reasons = dropped[0].reason if dropped else "it has no rows"
        raise DataError(f"{spec} leaves no prompts: {reasons}")
    return PromptSet(prompts=found, dropped=dropped, rows_read=len(rows))


def prompt_rows(
    spec: str, columns: Mapping[str, str] | None = None
) -> list[tuple[Origin, Content, Mapping[str, Any]]]:
    """Every row of `spec` with its prompt, without a look at any tokenizer. Raises DataError."""
    return list(_contents(spec, list(read_rows(spec, columns=columns)), columns, []))


def _contents(
    spec: str,
    rows: Sequence[tuple[Origin, Mapping[str, Any]]],
    columns: Mapping[str, str] | None,
    dropped: list[Dropped],
) -> Iterable[tuple[Origin, Content, Mapping[str, Any]]]:
    """Origin, prompt and row of each usable row; those set aside are added to `dropped`."""
    if any("chosen" in row for _, row in rows) and not any("prompt" in row for _, row in rows):
        by_origin = dict(rows)
        read = load_records(spec, purpose="preference", columns=columns)
        dropped += read.dropped
        for record in read.records:
            yield record.origin, record.prompt, by_origin[record.origin]
        return
    for origin, row in rows:
        prompt, _ = with_system(Row(origin, row), _prompt_of(origin, row), ())
        yield origin, prompt, row


def _prompt_of(origin: Origin, row: Mapping[str, Any]) -> Content:
    prompt = row.get("prompt")
    if prompt is None:
        raise DataError(
            f'{origin}: no column "prompt"{did_you_mean("prompt", row)}; '
            "--columns prompt=NAME says which one it is"
        )
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(isinstance(m, dict) for m in prompt):
        return tuple(prompt)
    raise DataError(f'{origin}: column "prompt" must be text or a list of messages')


def _unusable(origin: Origin, ids: np.ndarray, room: int, seen: set[bytes]) -> Dropped | None:
    """Why a prompt is set aside; None if it is not."""
    if not len(ids):
        return Dropped(origin, "empty prompt", "and the tokenizer has no start token")
    if len(ids) > room:
        return Dropped(origin, "prompt too long", f"{len(ids)} tokens, room for {room}")
    if ids.tobytes() in seen:
        return Dropped(origin, "same prompt as an earlier row")
    return None
