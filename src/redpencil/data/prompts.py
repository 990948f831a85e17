"""Prompts to be answered: for rollouts, completions and judgements, where responses are to come.

A row is read by the reader that training uses (rows.py), so that the same row asks the same thing
in every command. Rows need no responses: a prompt, or a conversation that waits for an answer, will
do. Whatever else a row holds goes to the reward.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from redpencil.data.casts import instruction
from redpencil.data.columns import ColumnMap
from redpencil.data.contents import Row, SetAside, text_or_turns
from redpencil.data.reading import Source
from redpencil.data.render import Refused
from redpencil.data.rows import Reader, with_system
from redpencil.data.shapes import Shape
from redpencil.data.sources import RawRow, Remarks, Spec, attempt_rows, mapped, named, said
from redpencil.data.split import prompt_key
from redpencil.data.structures import WrittenCount
from redpencil.data.tokenize import PromptIds
from redpencil.errors import DataError, did_you_mean
from redpencil.types import Content, Dropped, Message, Origin

PROMPT = Shape("prompt", ("prompt",))
"""Rows that ask something, whatever else they have."""

Tools = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptRow:
    """What a row asks. tools: for the chat template; row: the data row, as rewards see it.

    answers: the answers that stand in the row, as training reads them, by column.
    """

    content: Content
    tools: Tools | None = None
    row: Mapping[str, Any]
    origin: Origin
    answers: Mapping[str, Content] = field(default_factory=dict)

    @property
    def prompt_key(self) -> str:
        """Rows with equal ones ask the same."""
        return prompt_key(self.content, self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRows:
    """What the rows of a source ask, in their order; rows set aside; what was seen within rows."""

    rows: list[PromptRow]
    dropped: list[Dropped]
    notes: list[str]
    rows_read: int


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
    notes: list[str] = field(default_factory=list)


def load_prompts(
    spec: Spec,
    tokenizer: PreTrainedTokenizerBase,
    *,
    room: int,
    chat_template: str = "auto",
    columns: Mapping[str, str] | None = None,
) -> PromptSet:
    """The prompts of a data file, folder or Hub data set.

    room: most tokens of a prompt; longer ones are set aside, as are those that the chat template
    refuses. Equal prompts are taken once. Raises DataError.
    """
    read = prompt_rows(spec, columns)
    ids_of = PromptIds(tokenizer, chat_template)
    found: list[Prompt] = []
    dropped = list(read.dropped)
    seen: set[bytes] = set()
    for one in read.rows:
        try:
            ids = ids_of(one.content, one.tools, one.origin)
        except Refused as refused:
            dropped.append(Dropped(one.origin, refused.reason, refused.detail))
            continue
        unusable = _unusable(one.origin, ids, room, seen)
        if unusable:
            dropped.append(unusable)
            continue
        seen.add(ids.tobytes())
        found.append(
            Prompt(
                ids=ids,
                content=one.content,
                prompt_key=one.prompt_key,
                row=one.row,
                origin=one.origin,
            )
        )
    if not found:
        raise _nothing_left(spec, dropped)
    return PromptSet(prompts=found, dropped=dropped, rows_read=read.rows_read, notes=read.notes)


def prompt_rows(spec: Spec, columns: Mapping[str, str] | None = None) -> PromptRows:
    """What every row of `spec` asks, without a look at any tokenizer.

    Rows have a `prompt` (text or messages), or a conversation, or are of a shape that training
    reads; `system` and `tools` belong to the prompt. Raises DataError for malformed rows, and where
    no row is left.
    """
    remarks: Remarks = Counter()
    raws = list(attempt_rows(spec, remarks))
    reader = _Prompts(raws, spec, columns)
    mapping = ColumnMap(columns)
    found: list[PromptRow] = []
    dropped: list[Dropped] = []
    for raw in raws:
        if isinstance(raw.cells, DataError):
            raise raw.cells
        try:
            found.append(reader.read(Row(raw.origin, mapped(raw, mapping))))
        except SetAside as aside:
            dropped.append(Dropped(raw.origin, aside.reason, aside.detail))
    mapping.check(named(spec))
    if not found:
        raise _nothing_left(spec, dropped)
    notes = [*said(remarks), *reader.notes]
    return PromptRows(rows=found, dropped=dropped, notes=notes, rows_read=len(raws))


def text_of(content: Content, origin: Origin) -> str | tuple[Message, ...]:
    """A prompt for those that read text: rewards and judges. Raises DataError for token ids."""
    if isinstance(content, np.ndarray):
        raise DataError(f"{origin}: the prompt is token ids; text or messages are needed here")
    return content


def prompt_of(value: Any) -> Content:
    """A prompt in memory (text or messages), read as in a row. Raises DataError."""
    row = Row(Origin("prompt", 1), {"prompt": value})
    try:
        return text_or_turns(row, "prompt", value)
    except SetAside as aside:
        raise row.error("prompt", f"{aside.reason}: {aside.detail}") from aside


class _Prompts:
    """Reads rows of one data set for what they ask: by the shape that training finds in them, and
    rows without one by their column `prompt`."""

    def __init__(
        self, raws: Sequence[RawRow], spec: Spec, columns: Mapping[str, str] | None
    ) -> None:
        self._counted: Counter[str] = Counter()
        self._bare = Reader(PROMPT, "", False, self._counted)
        self._written = WrittenCount()
        self._source: Source | None = None
        self._refusal: DataError | None = None
        try:
            self._source = Source(spec, columns=columns, rows=lambda _: raws)
            self._written = self._source.written
        except DataError as error:  # rows that only ask are no training data
            self._refusal = error
            mapping = ColumnMap(columns)
            for raw in raws:
                if isinstance(raw.cells, dict):
                    self._written.see(mapped(raw, mapping))

    @property
    def notes(self) -> list[str]:
        counted = self._counted + (self._source.notes if self._source else Counter())
        return [*self._written.notes, *(note.format(n=f"{n:,}") for note, n in counted.items())]

    def read(self, row: Row) -> PromptRow:
        """Raises DataError for a malformed row, SetAside for one that asks nothing usable."""
        reader, ours = self._reader_of(row)
        prompt, answers = reader.asked(ours)
        if not len(prompt):
            raise SetAside("empty prompt", "no messages")
        prompt, _ = with_system(ours, prompt, ())
        names = [c for c in reader.shape.columns[1:] if c != "label"]
        if reader.shape.kind == "implicit":
            names = ["chosen", "rejected"]
        return PromptRow(
            content=prompt,
            tools=None if isinstance(prompt, np.ndarray) else ours.tools(),
            row={**row.cells, **ours.cells},
            origin=row.origin,
            # Of several responses the first.
            answers=dict(zip(names, answers, strict=False)),
        )

    def _reader_of(self, row: Row) -> tuple[Reader, Row]:
        """Who reads a row, and the row under our names."""
        problem = None
        if self._source is not None:
            part = self._source.part_of(row.origin.file)
            problem = part.deviation(row)
            if problem is None:
                return part.reader, part.made(row, Counter())
        if row.get("prompt") is not None:
            return self._bare, row
        if row.get("instruction") is not None:  # Alpaca's, without an answer
            return self._bare, Row(row.origin, {**row.cells, "prompt": instruction(row, "input")})
        if problem is not None:
            raise DataError(problem.detail)
        if self._refusal is not None and {"chosen", "rejected", "responses"} & row.cells.keys():
            raise self._refusal
        raise DataError(
            f'{row.origin}: no column "prompt"{did_you_mean("prompt", row.cells)}; '
            "--columns prompt=NAME says which one it is"
        )


def _nothing_left(spec: Spec, dropped: Sequence[Dropped]) -> DataError:
    if not dropped:
        return DataError(f"{named(spec)} leaves no prompts: it has no rows")
    first = dropped[0]
    detail = f": {first.detail}" if first.detail else ""
    return DataError(f"{named(spec)} leaves no prompts: {first.reason} ({first.origin}{detail})")


def _unusable(origin: Origin, ids: np.ndarray, room: int, seen: set[bytes]) -> Dropped | None:
    """Why a prompt is set aside; None if it is not."""
    if not len(ids):
        return Dropped(origin, "empty prompt", "and the tokenizer has no start token")
    if len(ids) > room:
        return Dropped(origin, "prompt too long", f"{len(ids)} tokens, room for {room}")
    if ids.tobytes() in seen:
        return Dropped(origin, "same prompt as an earlier row")
    return None
