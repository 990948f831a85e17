"""Records become examples: one prompt's token ids and K responses' ids with what is scored.

The prompt's ids are exactly what generation would see, the same for all its responses; a response
ends with the end-of-turn token or EOS, which is scored; only what an assistant says is scored; the
ids decode back to the text (rows where the tokenizer cannot do that are counted and named).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from redpencil.data.assemble import Encoded, assemble, encode_texts, with_start
from redpencil.data.chat import REFUSED, REWRITTEN, renderer_for
from redpencil.data.encode import Encoder
from redpencil.data.notes import Notes
from redpencil.data.render import Refused, Rendered, Renderer
from redpencil.data.split import prompt_key
from redpencil.data.truncate import drop_left, drop_turns
from redpencil.errors import DataError
from redpencil.types import Content, Dropped, Example, Origin, Record, Response

CHUNK = 2048
"""Records that go through the tokenizer together: it is parallel inside, and texts repeat."""

TOO_LONG = "too long"
IDENTICAL = "identical token ids"
_IN_MEMORY = Origin("prompt", 1)
_HOPELESS = frozenset({REFUSED, REWRITTEN, "needs a chat template"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """examples in the order of the records; dropped: the records that gave none.

    notes: sentences for the person who runs it. truncated: prompts that were shortened.
    """

    examples: list[Example]
    dropped: list[Dropped]
    notes: list[str]
    truncated: int


def tokenize_records(
    records: Iterable[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    chat_template: str = "auto",
) -> Tokenized:
    """Tokenize records; `max_length` bounds prompt + longest response of each, in tokens.

    chat_template: "auto" (the tokenizer's own if it has one; a text prompt is then one user turn),
    "none" (plain text, conversations as Human / Assistant transcripts) or a jinja file.

    Raises DataError for token ids outside the vocabulary, or if the template refuses every record;
    RecipeError for a template that is not there or not one.
    """
    stream = ExampleStream(records, tokenizer, max_length=max_length, chat_template=chat_template)
    return Tokenized(
        examples=list(stream),
        dropped=stream.dropped,
        notes=stream.notes,
        truncated=stream.truncated,
    )


class ExampleStream:
    """The examples of `tokenize_records` one after another; no more than `CHUNK` records are held.

    measure: is shown the ids of each record, in their order, before they are shortened or dropped.
    dropped, notes, truncated: see Tokenized; complete once the examples were iterated over.
    """

    def __init__(
        self,
        records: Iterable[Record],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        chat_template: str = "auto",
        measure: Callable[[Encoded], None] | None = None,
    ) -> None:
        self._records = iter(records)
        self._read = 0
        self._max_length = max_length
        self._worker = _Worker(tokenizer, max_length, chat_template, measure)

    def __iter__(self) -> Iterator[Example]:
        made = 0
        while chunk := list(islice(self._records, CHUNK)):
            self._worker.add(chunk)
            self._read += len(chunk)
            made += len(self._worker.examples)
            yield from self._worker.examples
            self._worker.examples.clear()
        if self._read and not made and all(d.reason in _HOPELESS for d in self.dropped):
            first = self.dropped[0]
            raise DataError(
                f"{first.origin}: {first.reason}: {first.detail} (and so for all {self._read} "
                "records); give another --chat-template (none, or a jinja file)"
            )

    @property
    def dropped(self) -> list[Dropped]:
        return self._worker.dropped

    @property
    def notes(self) -> list[str]:
        return self._worker.notes.sentences(self._read, self._max_length)

    @property
    def counted(self) -> Notes:
        """What the sentences of `notes` are made from."""
        return self._worker.notes

    @property
    def truncated(self) -> int:
        return self._worker.notes.shortened

    @property
    def too_long(self) -> list[int]:
        """Tokens that the records which were dropped as too long would need."""
        return self._worker.too_long


def prompt_ids(
    prompt: Content,
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Mapping[str, Any]] | None = None,
    chat_template: str = "auto",
) -> np.ndarray:
    """(P,) int32: the ids that generation sees for this prompt.

    With a chat template they are those of `apply_chat_template(add_generation_prompt=True)`.
    Raises DataError if the prompt cannot be rendered, or has ids outside the vocabulary.
    """
    try:
        return PromptIds(tokenizer, chat_template)(prompt, tuple(tools) if tools else None)
    except Refused as error:
        raise DataError(f"prompt: {error.reason}: {error.detail}") from error


class PromptIds:
    """`prompt_ids` of one prompt after another: the tokenizer is probed once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str = "auto") -> None:
        self._encoder = Encoder(tokenizer)
        self._renderer = renderer_for(self._encoder, chat_template)

    def __call__(
        self,
        prompt: Content,
        tools: tuple[Mapping[str, Any], ...] | None = None,
        origin: Origin = _IN_MEMORY,
    ) -> np.ndarray:
        """(P,) int32. Raises Refused where the prompt cannot be rendered, DataError for ids outside
        the vocabulary."""
        record = Record(prompt=prompt, responses=(), comparisons=(), origin=origin, tools=tools)
        if isinstance(prompt, np.ndarray):
            return _checked(prompt, self._encoder, record)
        text = _unicode(self._renderer.prompt(record))
        body = self._encoder.encode([text])[0]
        return body if self._renderer.templated else with_start(body, self._encoder)[0]


def decode(ids: np.ndarray | Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Text of the ids, special tokens and spaces as they are."""
    return tokenizer.decode(
        [int(i) for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def readable(
    ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, *, after: np.ndarray | None = None
) -> str:
    """Text of the ids for a person: without special tokens.

    after: the ids that come before. Some tokenizers drop the first space of what they decode, so a
    response is decoded behind its prompt and the prompt's text cut off again.
    """

    def text(sequence: Sequence[int]) -> str:
        return tokenizer.decode(
            sequence, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    if after is None:
        return text(ids.tolist())
    before = text(after.tolist())
    whole = text([*after.tolist(), *ids.tolist()])
    return whole[len(before) :] if whole.startswith(before) else text(ids.tolist())


class _Worker:
    """Takes chunks of records and gathers what becomes of them."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        chat_template: str,
        measure: Callable[[Encoded], None] | None,
    ) -> None:
        self.measure = measure
        self.encoder = Encoder(tokenizer)
        self.renderer: Renderer = renderer_for(self.encoder, chat_template)
        self.max_length = max_length
        self.notes = Notes(self.encoder)
        self.examples: list[Example] = []
        self.dropped: list[Dropped] = []
        self.too_long: list[int] = []

    def add(self, records: Sequence[Record]) -> None:
        """Render one by one, encode together, shorten and check one by one."""
        outcomes: list[Rendered | Refused | None] = [self._rendered(r) for r in records]
        rendered = [o for o in outcomes if isinstance(o, Rendered)]
        texts = encode_texts(rendered, self.encoder)
        origins = (
            r.origin for r, o in zip(records, outcomes, strict=True) if isinstance(o, Rendered)
        )
        self.notes.check_texts(list(zip(origins, rendered, strict=True)), texts)
        encoded = (assemble(r, texts, self.encoder) for r in rendered)
        for record, outcome in zip(records, outcomes, strict=True):
            if isinstance(outcome, Refused):
                self.dropped.append(Dropped(record.origin, outcome.reason, outcome.detail))
            else:
                self._finish(record, self._ready(record) if outcome is None else next(encoded))

    def _rendered(self, record: Record) -> Rendered | Refused | None:
        """None for records that are token ids already."""
        if isinstance(record.prompt, np.ndarray):
            return None
        self.notes.look_for_literals(record)
        try:
            rendered = self.renderer.render(record)
            for text in (rendered.prompt, *(r.text for r in rendered.responses)):
                _unicode(text)
        except Refused as refused:
            return refused
        return rendered

    def _ready(self, record: Record) -> Encoded:
        """Pre-tokenized: as it is, all of a response scored."""
        self.notes.ready_ids += 1
        prompt = _checked(record.prompt, self.encoder, record)
        bos = self.encoder.tokenizer.bos_token_id
        responses = [_checked(r, self.encoder, record) for r in record.responses]
        return Encoded(
            prompt,
            int(len(prompt) > 0 and prompt[0] == bos),
            tuple((ids, np.ones(len(ids), dtype=bool)) for ids in responses),
        )

    def _finish(self, record: Record, encoded: Encoded) -> None:
        if self.measure is not None:
            self.measure(encoded)
        fitting: Encoded | None = encoded
        if encoded.length > self.max_length:
            whole = encoded
            record, encoded, fitting = self._made_to_fit(record, encoded)
            if fitting is None:
                encoded = whole
                self.too_long.append(encoded.length)
                detail = (
                    f"{encoded.length} tokens (longest response {encoded.longest_response}), "
                    f"allowed are {self.max_length}"
                )
                self.dropped.append(Dropped(record.origin, TOO_LONG, detail))
                return
            if fitting is not encoded:
                self.notes.shorten(record.origin)
        assert fitting is not None and fitting.length <= self.max_length
        responses = fitting.responses
        comparisons = tuple(
            c for c in record.comparisons if not _same(responses[c.chosen], responses[c.rejected])
        )
        if record.comparisons and not comparisons:
            detail = "the tokenizer gives all compared responses the same ids"
            self.dropped.append(Dropped(record.origin, IDENTICAL, detail))
            return
        weights = record.weights or (1.0,) * len(responses)
        example = Example(
            prompt_ids=fitting.prompt_ids,
            responses=tuple(
                Response(ids=ids, scored=scored, origin=record.origin, weight=weight)
                for (ids, scored), weight in zip(responses, weights, strict=True)
            ),
            comparisons=comparisons,
            prompt_key=prompt_key(record.prompt, record.tools),
        )
        self.examples.append(example)

    def _made_to_fit(
        self, record: Record, encoded: Encoded
    ) -> tuple[Record, Encoded, Encoded | None]:
        """The record and its ids, without the longest of several responses where they do not fit
        even with a shortened prompt; and what fits, None if nothing does."""
        left = record
        while True:
            fitting: Encoded | None = encoded
            if encoded.length > self.max_length:
                fitting = self._shortened(left, encoded)
            if fitting is not None or len(encoded.responses) <= 2 or left.weights:
                break
            lengths = [len(ids) for ids, _ in encoded.responses]
            left, encoded = _without(left, encoded, lengths.index(max(lengths)))
            if not left.comparisons:
                break
        if fitting is not None:
            self.notes.long_responses += len(record.responses) - len(left.responses)
        return left, encoded, fitting

    def _shortened(self, record: Record, encoded: Encoded) -> Encoded | None:
        if isinstance(record.prompt, np.ndarray):
            return drop_left(encoded, self.encoder, self.max_length)
        record = self.renderer.as_chat(record)
        if isinstance(record.prompt, str):
            return drop_left(encoded, self.encoder, self.max_length)
        one_turn = all(isinstance(r, tuple) and len(r) == 1 for r in record.responses)
        if one_turn and encoded.longest_response >= self.max_length:
            return None
        return drop_turns(record, self._encode_one, self.max_length)

    def _encode_one(self, record: Record) -> Encoded:
        rendered = self.renderer.render(record)
        return assemble(rendered, encode_texts([rendered], self.encoder), self.encoder)


def _without(record: Record, encoded: Encoded, gone: int) -> tuple[Record, Encoded]:
    """A record and its ids without one response and what it is compared with."""

    def kept(items: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(item for i, item in enumerate(items) if i != gone)

    comparisons = tuple(
        replace(c, chosen=c.chosen - (c.chosen > gone), rejected=c.rejected - (c.rejected > gone))
        for c in record.comparisons
        if gone not in (c.chosen, c.rejected)
    )
    left = replace(record, responses=kept(record.responses), comparisons=comparisons)
    return left, replace(encoded, responses=kept(encoded.responses))


def _same(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def _checked(ids: Content, encoder: Encoder, record: Record) -> np.ndarray:
    """Token ids from a file as int32; DataError if one is not in the vocabulary."""
    assert isinstance(ids, np.ndarray), f"{record.origin}: ids and text are mixed"
    wrong = ids[(ids < 0) | (ids >= encoder.vocabulary)]
    if len(wrong):
        raise DataError(
            f"{record.origin}: token id {wrong[0]} is not in the tokenizer's vocabulary of "
            f"{encoder.vocabulary}; tokenize the data with this model's tokenizer"
        )
    return ids.astype(np.int32)


def _unicode(text: str) -> str:
    """Half a surrogate pair (JSON allows it) is no text: no tokenizer takes it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"{text[error.start]!r} after {text[max(0, error.start - 20) : error.start]!r}"
        raise Refused("not valid Unicode", found) from error
    return text
