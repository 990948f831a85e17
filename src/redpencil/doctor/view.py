"""A record as the statistics look at it: its texts, each made once for all that count them."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from redpencil.doctor.rows.keys import prompt_of
from redpencil.types import Content, Origin, Record

PAIRS_OF_A_ROW = 64
"""Comparisons of one row that the statistics look at, evenly spaced: 14 ranked answers have 91."""

_UNASSIGNED = 0x30000
_ROOM = 0x110000 - _UNASSIGNED
"""Characters that stand for token ids: beyond all that has small letters or is white space."""


@dataclass(frozen=True, slots=True)
class View:
    """One record's texts. prompt_hash: equal where prompts are, as training splits them; 64 bits.

    kept: whether training takes the record. is_text: False for rows of token ids, whose "texts"
    have one character for each id: they can be compared, but hold no words.
    """

    origin: Origin
    prompt: str
    responses: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    prompt_hash: int
    is_text: bool
    kept: bool = True

    def sides(self) -> Iterator[tuple[str, str]]:
        """(chosen, rejected) of each comparison."""
        return ((self.responses[c], self.responses[r]) for c, r in self.pairs)


def view(record: Record, *, kept: bool = True) -> View:
    prompt = as_text(record.prompt)
    pairs = [(c.chosen, c.rejected) for c in record.comparisons]
    stride = -(-len(pairs) // PAIRS_OF_A_ROW) or 1
    return View(
        origin=record.origin,
        prompt=prompt,
        responses=tuple(map(as_text, record.responses)),
        pairs=tuple(pairs[::stride]),
        prompt_hash=prompt_of(record),
        is_text=not isinstance(record.prompt, np.ndarray),
        kept=kept,
    )


def as_text(content: Content) -> str:
    """Text as it is; turns joined by line breaks; each token id as one character.

    A prompt of several turns names the speakers, so that who says what counts; a response of one
    assistant turn is what it says.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, np.ndarray):
        return "".join(map(chr, content % _ROOM + _UNASSIGNED))
    if len(content) == 1:
        return _said(content[0])
    return "\n".join(f"{turn.get('role')}: {_said(turn)}" for turn in content)


def _said(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    if isinstance(content, list | tuple):
        content = "\n".join(str(p["text"]) if "text" in p else repr(p) for p in content)
    calls = turn.get("tool_calls")
    return f"{content or ''}\n{calls!r}" if calls else str(content or "")


def hash_of(text: str) -> int:
    """64 bits that stand for a text, the same in every process."""
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")
