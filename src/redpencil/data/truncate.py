"""Over-long records: the prompt loses its oldest turns, then its left end; no response its end.

Conversations are shortened as turns and rendered anew, so that what is left is again exactly what
generation would see: system turns stay, whole rounds go first and what is left begins with a user
turn; if the last round alone is too long, its first turn loses the left end of its text. A single
response of several turns (SFT) loses its oldest rounds like the prompt. Plain text keeps its BOS
and loses ids from the left.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from redpencil.data.assemble import Encoded
from redpencil.data.encode import Encoder
from redpencil.data.render import SYSTEM_ROLES, Refused, is_scored, response_turns
from redpencil.types import Message, Record


def drop_left(encoded: Encoded, encoder: Encoder, max_length: int) -> Encoded | None:
    """Drop prompt ids from the left behind the BOS; None if not one of the prompt's would stay."""
    head, body = np.split(encoded.prompt_ids, [encoded.start])
    room = max_length - encoded.longest_response - len(head)
    if room < 1:
        return None
    kept = body[-room:]
    # Half a character is no text: a cut inside one moves on to its end.
    while len(kept) > 1 and encoder.decode([kept])[0].startswith("\ufffd"):
        kept = kept[1:]
    return replace(encoded, prompt_ids=np.concatenate([head, kept]))


def drop_turns(
    record: Record, encode: Callable[[Record], Encoded], max_length: int
) -> Encoded | None:
    """Shorten a conversation until it fits `max_length`; None if it cannot.

    encode: renders and encodes a record; it may raise Refused (a template that wants turns to
    alternate), then the next shorter conversation is tried.
    """
    last = record
    for last in _later_starts(record):
        encoded = _tried(encode, last)
        if encoded and encoded.length <= max_length:
            return encoded
    return _cut_text(last, encode, max_length)


def _tried(encode: Callable[[Record], Encoded], record: Record) -> Encoded | None:
    try:
        return encode(record)
    except Refused:
        return None


def _later_starts(record: Record) -> Iterator[Record]:
    """The same conversation begun at its later user turns, one after another."""
    prompt = record.prompt
    assert isinstance(prompt, tuple)
    system, turns = _split_system(prompt)
    for i in range(1, len(turns)):
        if turns[i].get("role") == "user":
            yield replace(record, prompt=system + turns[i:])
    if len(record.responses) > 1:
        return
    said = response_turns(record.responses[0])
    for i in range(1, len(said)):
        if said[i].get("role") != "user":
            continue
        answer = next(j for j in range(i, len(said)) if is_scored(said[j]))
        yield replace(record, prompt=system + said[i:answer], responses=(said[answer:],))


def _split_system(
    turns: tuple[Message, ...],
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    count = 0
    while count < len(turns) and turns[count].get("role") in SYSTEM_ROLES:
        count += 1
    return turns[:count], turns[count:]


def _cut_text(
    record: Record, encode: Callable[[Record], Encoded], max_length: int
) -> Encoded | None:
    """Cut characters from the left of the first turn: the fewest that make it fit."""
    assert isinstance(record.prompt, tuple)
    system, turns = _split_system(record.prompt)
    text = turns[0].get("content") if turns else None
    if not isinstance(text, str) or not text:
        return None

    def without(count: int) -> Encoded | None:
        shorter = {**turns[0], "content": text[count:]}
        encoded = _tried(encode, replace(record, prompt=(*system, shorter, *turns[1:])))
        return encoded if encoded and encoded.length <= max_length else None

    low, high = 0, len(text) - 1
    best = without(high)
    while best and high - low > 1:
        middle = (low + high) // 2
        if fitting := without(middle):
            best, high = fitting, middle
        else:
            low = middle
    return best
