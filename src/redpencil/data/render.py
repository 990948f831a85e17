"""Records as text: what the tokenizer gets to see, and which stretches of it are scored.

A chat record is rendered by the tokenizer's chat template (chat.py) or, where there is none, as the
transcript of Anthropic's HH data:

    {system}\\n\\nHuman: {content}\\n\\nAssistant: {content}

with the prompt ending in "\\n\\nAssistant:" and the response beginning with a space. A text
record stays as it is, but for a separator between prompt and response where one is asked for; it is
kept with the tokenizer, so that whoever loads the model renders as its training did. Whoever cannot
be rendered exactly is `Refused`.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from redpencil.data.contents import is_muted
from redpencil.types import Content, Message, Record

SYSTEM_ROLES = frozenset({"system", "developer"})


class Refused(Exception):
    """This record cannot be used. reason: a short fixed phrase; detail: what was seen."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a response; encoded by itself, so that scoring begins and ends exactly."""

    text: str
    scored: bool


@dataclass(frozen=True, slots=True)
class RenderedResponse:
    """ended: the last piece ends with an end-of-turn token already; else EOS is to follow."""

    pieces: tuple[Piece, ...]
    ended: bool

    @property
    def text(self) -> str:
        return "".join(p.text for p in self.pieces)


@dataclass(frozen=True, slots=True)
class Rendered:
    """templated: the text is complete, BOS included; else the tokenizer's BOS goes in front."""

    prompt: str
    responses: tuple[RenderedResponse, ...]
    templated: bool


class Renderer(Protocol):
    """Turns contents into text. `as_chat` says whether (and how) a record is a conversation."""

    def as_chat(self, record: Record) -> Record: ...

    def prompt(self, record: Record) -> str: ...

    def render(self, record: Record) -> Rendered: ...

    @property
    def templated(self) -> bool: ...


def chat_record(record: Record) -> Record:
    """The same record with text contents as one user turn and one assistant turn."""
    return replace(
        record,
        prompt=_turns(record.prompt, "user"),
        responses=tuple(_turns(r, "assistant") for r in record.responses),
    )


def _turns(content: Content, role: str) -> tuple[Message, ...]:
    assert not isinstance(content, np.ndarray), "token ids are not rendered"
    return ({"role": role, "content": content},) if isinstance(content, str) else content


def is_scored(turn: Message) -> bool:
    """Whether a turn of a response is learned: the assistant's, unless the data say no."""
    return turn.get("role") == "assistant" and not is_muted(turn)


def response_turns(turns: Content) -> tuple[Message, ...]:
    """The turns of a response up to its last scored one; the first must be an assistant's."""
    assert isinstance(turns, tuple), type(turns)
    last = max((i for i, t in enumerate(turns) if is_scored(t)), default=-1)
    if last < 0:
        raise Refused("no assistant turn", "the response has nothing to score")
    if turns[0].get("role") != "assistant":
        raise Refused("response does not begin with an assistant turn", str(turns[0].get("role")))
    return turns[: last + 1]


SEPARATOR = "prompt_separator"
"""The key of a tokenizer's config that says what stands between prompt and response."""
_CLOSING = frozenset(".?!,;:\u2026)]}\"'\u201d\u2019")
_OPENING = frozenset("\"'\u201c\u2018")
_UNSPACED = re.compile("CJK|HIRAGANA|KATAKANA|THAI|LAO|KHMER|MYANMAR|TIBETAN|FULLWIDTH|IDEOGRAPHIC")


def separator_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """What stands between a prompt and a response of plain text: often nothing."""
    return str(tokenizer.init_kwargs.get(SEPARATOR) or "")


def runs_together(prompt: str, response: str) -> bool:
    """Whether something is missing between two texts: a word meets another, or what ends one, with
    no white space between. Scripts that put no spaces between words are left alone."""
    last, first = prompt[-1:], response[:1]
    if not last or not (first.isalnum() or first in _OPENING):
        return False
    if any(_UNSPACED.match(unicodedata.name(c, "")) for c in (last, first)):
        return False
    return last.isalnum() or last in _CLOSING


class PlainRenderer:
    """Without a chat template: text as it is, conversations as HH transcripts.

    separator: stands between a prompt and a response of text, where there is none yet. What it ends
    with in spaces begins the response, as tokenizers have it; the rest ends the prompt.
    """

    templated = False

    def __init__(self, separator: str = "") -> None:
        self._head = separator.rstrip(" ")
        self._tail = separator[len(self._head) :]

    def as_chat(self, record: Record) -> Record:
        contents = (record.prompt, *record.responses)
        return chat_record(record) if any(isinstance(c, tuple) for c in contents) else record

    def prompt(self, record: Record) -> str:
        """The prompt as text. Raises Refused for what plain text cannot say (tools)."""
        record = self.as_chat(record)
        if record.tools:
            raise Refused("needs a chat template", "the row has tools")
        if isinstance(record.prompt, str):
            text = record.prompt
            return text if text.endswith(self._head) else text + self._head
        assert isinstance(record.prompt, tuple)
        return _transcript(record.prompt) + "\n\nAssistant:"

    def render(self, record: Record) -> Rendered:
        record = self.as_chat(record)
        prompt = self.prompt(record)
        return Rendered(prompt, tuple(self._response(r, prompt) for r in record.responses), False)

    def _response(self, content: Content, prompt: str) -> RenderedResponse:
        if isinstance(content, str):
            spaced = content[:1].isspace() or prompt[-1:].isspace()
            text = content if spaced else self._tail + content
            return RenderedResponse((Piece(text, True),), ended=False)
        pieces: list[Piece] = []
        between: list[Message] = []
        for turn in response_turns(content):
            if not is_scored(turn):
                between.append(turn)
                continue
            if turn is not content[0]:
                before = _between(between, opened=not pieces)
                pieces.append(Piece(before + "\n\nAssistant:", False))
            pieces.append(Piece(f" {_text(turn)}", True))
            between = []
        return RenderedResponse(tuple(pieces), ended=False)


def _between(turns: Sequence[Message], *, opened: bool) -> str:
    """Turns between scored ones. opened: the first, the assistant's, has its name already."""
    if not opened:
        return _transcript(turns, inside=True)
    return f" {_text(turns[0])}{_transcript(turns[1:], inside=True)}"


_SPEAKERS = {"user": "Human", "assistant": "Assistant"}


def _transcript(turns: Iterable[Message], *, inside: bool = False) -> str:
    said = []
    for i, turn in enumerate(turns):
        role = str(turn.get("role", ""))
        if i == 0 and role in SYSTEM_ROLES and not inside:
            said.append(_text(turn))
        else:
            said.append(f"\n\n{_SPEAKERS.get(role, role.title())}: {_text(turn)}")
    return "".join(said)


def _text(turn: Message) -> str:
    if turn.get("tool_calls"):
        raise Refused("needs a chat template", "a turn calls tools")
    content: Any = turn.get("content")
    assert isinstance(content, str), f"contents.py makes text of parts, not {content!r:.60}"
    return content
