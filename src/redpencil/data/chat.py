"""Conversations through a chat template, with the exact stretches that an assistant writes.

The prompt is the template's rendering with its generation prompt, to the letter what generation
would see; a response is what the rendering of the whole conversation has after it. Which means:

- A template may add to a response (Qwen 3 writes an empty <think> block into the last turn): that
  is part of the response. A template may take from the past (old thoughts): that is the past.
- A template whose whole conversation does not begin with its own generation prompt (one that opens
  a <think> which the answer then does not have) is refused: no cut would be exact.
- After the assistant's end-of-turn token nothing is kept: generation stops there. Where a template
  writes no such token, EOS follows.
- In a response of several turns the assistant's are found by rendering the conversation up to
  them; everything between is not scored, nor are turns that the data say are not to be learned.
- The arguments of a call are an object, which templates write as JSON; to one that takes them for a
  text (it refuses objects, or prints them as Python does), they are given as JSON text.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime, time, tzinfo
from itertools import pairwise
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from redpencil.data.encode import Encoder
from redpencil.data.render import (
    SEPARATOR,
    Piece,
    PlainRenderer,
    Refused,
    Rendered,
    RenderedResponse,
    Renderer,
    chat_record,
    is_scored,
    response_turns,
    separator_of,
)
from redpencil.errors import RecipeError, did_you_mean
from redpencil.places import path_of, text_of
from redpencil.types import Message, Record

REFUSED = "refused by the chat template"
REWRITTEN = "chat template does not continue its generation prompt"
_MARK = "redpencilmark"


def renderer_for(encoder: Encoder, chat_template: str) -> Renderer:
    """chat_template: "auto" (the tokenizer's own, if it has one), "none", or a jinja file.

    Raises RecipeError if the file is not there.
    """
    plain = PlainRenderer(separator_of(encoder.tokenizer))
    if chat_template == "none":
        return plain
    if chat_template == "auto":
        has_one = bool(encoder.tokenizer.chat_template)
        return ChatRenderer(encoder, None) if has_one else plain
    return ChatRenderer(encoder, _template_in(chat_template), name=chat_template)


class Clock:
    """What time it is for a template: the same moment whenever it is asked.

    Some templates print today's date (Llama 3.2's). What is rendered tomorrow must still be what
    was rendered today: a run is resumed, its prompts are hashed. asked: whether any template has.
    """

    def __init__(self, moment: datetime) -> None:
        self.moment = moment
        self.asked = False

    def now(self) -> datetime:
        self.asked = True
        return self.moment


class _ClockedDatetime(datetime):
    """In place of transformers' own: a template gets no function of ours, only its `strftime_now`,
    which asks `datetime.now()`. Where we do not render it is the real time."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return _clock.now() if _rendering.get() else datetime.now(tz)


_clock = Clock(datetime.now())
_rendering: ContextVar[bool] = ContextVar("rendering", default=False)
chat_template_utils.datetime = _ClockedDatetime


@contextmanager
def template_clock(day: str | date | None) -> Iterator[Clock]:
    """Inside, every template prints this date (ISO 8601), at midnight; None: the moment that this
    program began. The clock before comes back afterwards."""
    global _clock
    before = _clock
    day = date.fromisoformat(day) if isinstance(day, str) else day
    _clock = before if day is None else Clock(datetime.combine(day, time()))
    try:
        yield _clock
    finally:
        _clock = before


def current_clock() -> Clock:
    """The clock that templates are given now."""
    return _clock


def keep_template(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> None:
    """The tokenizer has the template from now on, so that whoever loads what is saved renders
    prompts as this run does. chat_template: as `renderer_for`'s. Raises RecipeError."""
    if chat_template == "none":
        tokenizer.chat_template = None
    elif chat_template != "auto":
        tokenizer.chat_template = _template_in(chat_template)


def _template_in(file: str) -> str:
    path = path_of(file)
    if not path.is_file():
        hint = did_you_mean(file, ["auto", "none"])
        raise RecipeError(
            f"--chat-template {file}: no such file (give auto, none or a jinja file{hint})"
        )
    template = text_of(path)
    if "{{" not in template and "{%" not in template:
        raise RecipeError(
            f"--chat-template {file} is no chat template: there is no {{{{ or {{% in it, so "
            "that every conversation would read alike; give a jinja file, auto or none"
        )
    return template


def use_separator(
    tokenizer: PreTrainedTokenizerBase, separator: str | None, chat_template: str
) -> None:
    """Have `separator` stand between prompts and responses of plain text, now and wherever the
    tokenizer is saved; None leaves the tokenizer's own. Raises RecipeError where a chat template is
    used, which says itself what stands there."""
    if separator is None:
        return
    plain = chat_template == "none" or (chat_template == "auto" and not tokenizer.chat_template)
    if separator and not plain:
        raise RecipeError(
            "--separator is for plain text, and here a chat template writes what stands between "
            "prompt and answer; leave it out, or give --chat-template none"
        )
    tokenizer.init_kwargs[SEPARATOR] = separator


class ChatRenderer:
    """Renders with one template (None: the tokenizer's own, which may depend on the tools)."""

    templated = True

    def __init__(self, encoder: Encoder, template: str | None, name: str = "auto") -> None:
        self.tokenizer: PreTrainedTokenizerBase = encoder.tokenizer
        self.template = template
        self.name = name
        tokens = sorted(encoder.added, key=len, reverse=True)
        any_token = "|".join(re.escape(t) for t in tokens) or r"(?!)"
        self._token = re.compile(any_token)
        self._trailing = re.compile(rf"({any_token})(?:\s|{any_token})*\Z")
        self._arguments_as_text: bool | None = None
        self.tail = self._find_tail()

    @property
    def end_of_turn(self) -> str | None:
        """The token that the template ends an assistant's turn with, if it writes one."""
        token = self._token.search(self.tail or "")
        return token.group() if token else None

    def as_chat(self, record: Record) -> Record:
        return chat_record(record)

    def prompt(self, record: Record) -> str:
        """The prompt with the generation prompt. Raises Refused with the template's words."""
        prompt = chat_record(record).prompt
        assert isinstance(prompt, tuple)
        return self._apply(prompt, record.tools, open_turn=True)

    def render(self, record: Record) -> Rendered:
        """Raises Refused if the template does, or if a response cannot be cut out exactly."""
        record = chat_record(record)
        prompt = self.prompt(record)
        responses = []
        for content in record.responses:
            assert isinstance(record.prompt, tuple)
            turns = response_turns(content)
            responses.append(self._response(prompt, record.prompt, turns, record.tools))
        return Rendered(prompt, tuple(responses), True)

    def _response(
        self,
        prompt: str,
        before: tuple[Message, ...],
        turns: tuple[Message, ...],
        tools: Sequence[Any] | None,
    ) -> RenderedResponse:
        whole = self._apply(before + turns, tools, open_turn=False)
        spans: list[tuple[int, int]] = []
        ended = False
        for i, turn in enumerate(turns):
            if not is_scored(turn):
                continue
            head = prompt if i == 0 else self._apply(before + turns[:i], tools, open_turn=True)
            if not whole.startswith(head):
                raise Refused(REWRITTEN, _difference(head, whole))
            start = len(head)
            last = i == len(turns) - 1
            until = whole if last else self._apply(before + turns[: i + 1], tools, open_turn=False)
            end, ended = self._end_of_turn(whole, start, until)
            spans.append((start, end))
        pieces = []
        if spans[0][0] > len(prompt):
            if not whole.startswith(prompt):
                raise Refused(REWRITTEN, _difference(prompt, whole))
            pieces.append(Piece(whole[len(prompt) : spans[0][0]], False))
        for (start, end), (following, _) in pairwise([*spans, (-1, -1)]):
            pieces.append(Piece(whole[start:end], True))
            if following >= 0:
                assert following >= end, (following, end)
                pieces.append(Piece(whole[end:following], False))
        return RenderedResponse(tuple(pieces), ended)

    def _end_of_turn(self, whole: str, start: int, until: str) -> tuple[int, bool]:
        """Where the turn that begins at `start` ends, and whether with an end-of-turn token.

        until: the conversation rendered up to and including this turn.
        """
        if not whole.startswith(until):
            # The template writes the last turn otherwise than earlier ones: look for its token.
            token = self._token.search(self.tail or "")
            at = whole.find(token.group(), start) if token else -1
            if at < 0 or not token:
                raise Refused(REWRITTEN, _difference(until, whole))
            return at + len(token.group()), True
        text = until[start:]
        if self.tail and text.endswith(self.tail):
            token = self._token.search(self.tail)
            kept = token.end() if token else len(self.tail.rstrip())
            return len(until) - len(self.tail) + kept, token is not None
        if found := self._trailing.search(text):
            return start + found.end(1), True
        return start + len(text if self.tail == "" else text.rstrip()), False

    def _find_tail(self) -> str | None:
        """What the template writes after the last assistant's words: "<|im_end|>\\n"."""
        turns = ({"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK})
        try:
            text = self._apply(turns, None, open_turn=False)
        except Refused:
            return None
        return text[text.rfind(_MARK) + len(_MARK) :] if _MARK in text else None

    def _apply(
        self, turns: Sequence[Message], tools: Sequence[Any] | None, *, open_turn: bool
    ) -> str:
        said = [dict(t) for t in turns]
        if any(t.get("tool_calls") for t in said) and self._wants_text():
            said = [_with_text(t) for t in said]
        return self._said(said, tools, open_turn=open_turn)

    def _wants_text(self) -> bool:
        """Whether the template takes the arguments of a call for a text."""
        if self._arguments_as_text is None:
            function = {"name": "f", "arguments": {_MARK: _MARK}}
            call = {"id": "call00000", "type": "function", "function": function}
            said: list[Message] = [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ]
            try:
                text = self._said(said, None, open_turn=False)
                self._arguments_as_text = f"{{'{_MARK}'" in text
            except Refused:
                self._arguments_as_text = self._takes(list(map(_with_text, said)))
        return self._arguments_as_text

    def _takes(self, said: Sequence[Message]) -> bool:
        try:
            self._said(said, None, open_turn=False)
        except Refused:
            return False
        return True

    def _said(
        self, turns: Sequence[Message], tools: Sequence[Any] | None, *, open_turn: bool
    ) -> str:
        rendering = _rendering.set(True)
        try:
            text = self.tokenizer.apply_chat_template(
                list(turns),
                tools=[dict(t) for t in tools] if tools else None,
                chat_template=self.template,
                add_generation_prompt=open_turn,
                tokenize=False,
            )
        except jinja2.TemplateSyntaxError as error:
            raise RecipeError(
                f"--chat-template {self.name}: line {error.lineno}: {error.message}"
            ) from error
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            raise Refused(REFUSED, f"{error} ({_roles(turns)})") from error
        finally:
            _rendering.reset(rendering)
        assert isinstance(text, str), type(text)
        return text


def _with_text(turn: Message) -> dict[str, Any]:
    """A turn with the arguments of its calls as JSON text."""
    calls = turn.get("tool_calls")
    return {**turn, "tool_calls": [_call_with_text(c) for c in calls]} if calls else dict(turn)


def _call_with_text(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _call_with_text(call["function"])}
    if not isinstance(call.get("arguments"), Mapping):
        return call
    return {**call, "arguments": json.dumps(call["arguments"], ensure_ascii=False)}


def _roles(turns: Sequence[Message]) -> str:
    return "turns: " + ", ".join(str(t.get("role")) for t in turns) if turns else "no turns"


def _difference(expected: str, seen: str) -> str:
    """Both texts from where they part."""
    pairs = enumerate(zip(expected, seen, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(expected), len(seen)))
    return f"expected {expected[at : at + 30]!r}, rendered {seen[at : at + 30]!r}"
