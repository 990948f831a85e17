"""Prompts out of whole conversations: what two sides share, and HH's Human / Assistant text.

An HH transcript is text like "\\n\\nHuman: hi\\n\\nAssistant: hello". What follows the colon is
kept to the letter but for its one leading space, so that render.py gives the original text back; a
turn without that space (HH's empty turns) gets one, which is counted.
"""

import re
from collections import Counter
from collections.abc import Sequence

from redpencil.data.contents import SetAside, Turns
from redpencil.types import Message

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
DIFFERENT = "different prompts on the two sides"
NO_ANSWER = "transcript does not end with an assistant turn"
NO_SPACE = '{n} transcript turns have no space after "Human:" or "Assistant:"; they get one'
_MARKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    return ASSISTANT in text


def parse_transcript(text: str, notes: Counter[str]) -> Turns:
    """Turns of an HH transcript; text before the first marker is a system turn."""
    parts = _MARKER.split(text)
    turns: list[Message] = [{"role": "system", "content": parts[0]}] if parts[0] else []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        if not said.startswith(" "):
            notes[NO_SPACE] += 1
        turns.append({"role": _ROLES[speaker], "content": said.removeprefix(" ")})
    return tuple(turns)


def split_last_answer(turns: Turns) -> tuple[Turns, Turns]:
    """(prompt, response): the response is the assistant turn at the end, one turn: what a single
    generation gives. Raises SetAside if the conversation ends otherwise.
    """
    if not turns or turns[-1]["role"] != "assistant":
        last = str(turns[-1]["role"]) if turns else "nothing"
        raise SetAside(NO_ANSWER, f"it ends with {last}")
    return turns[:-1], turns[-1:]


def split_first_answer(turns: Turns) -> tuple[Turns, Turns]:
    """(prompt, response): the response begins with the first assistant turn."""
    at = next((i for i, t in enumerate(turns) if t["role"] == "assistant"), None)
    if at is None:
        raise SetAside("no assistant turn", f"{len(turns)} messages")
    return turns[:at], turns[at:]


def split_transcripts(texts: Sequence[str], notes: Counter[str]) -> tuple[Turns, tuple[Turns, ...]]:
    """One prompt and the responses of HH transcripts; SetAside if the prompts are different."""
    if not all(is_transcript(t) for t in texts):
        raise SetAside(NO_ANSWER, "no Assistant: in it")
    counted: Counter[str] = Counter()
    sides = [split_last_answer(parse_transcript(t, counted)) for t in texts]
    prompt = sides[0][0]
    for other, _ in sides[1:]:
        if other != prompt:
            raise SetAside(DIFFERENT, _difference(prompt, other))
    notes += counted
    return prompt, tuple(response for _, response in sides)


def split_turns(sides: Sequence[Turns]) -> tuple[Turns, tuple[Turns, ...]]:
    """The leading turns that all sides share are the prompt; each side goes on with an answer."""
    shared = min(len(s) for s in sides)
    for i in range(shared):
        if any(s[i] != sides[0][i] for s in sides[1:]):
            shared = i
            break
    if any(len(s) == shared for s in sides):
        # One side is the beginning of another: the answer begins at its last assistant turn.
        while shared and sides[0][shared - 1]["role"] != "assistant":
            shared -= 1
        shared -= shared > 0
    rest = tuple(s[shared:] for s in sides)
    for said in rest:
        if not said or said[0]["role"] != "assistant":
            place = f"turn {shared + 1} is {said[0]['role'] if said else 'missing'}"
            raise SetAside(DIFFERENT, f"they part where no assistant speaks: {place}")
    if shared == 0:
        raise SetAside("empty prompt", "the two sides share no turn")
    return sides[0][:shared], rest


def split_texts(sides: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Text without turns: the shared beginning up to the last line break or space in it.

    A line break ends the prompt; a space begins the response.
    """
    shared = _shared(sides)
    at = len(shared)
    if any(at < len(s) for s in sides) or any(not s[at:].strip() for s in sides):
        breaks = [i for i, c in enumerate(shared) if c.isspace()]
        at = breaks[-1] if breaks else 0
        if breaks and shared[at] != " ":
            at += 1
        while at > 0 and shared[at - 1] == " ":
            at -= 1
    prompt = shared[:at]
    if not prompt.strip():
        raise SetAside(DIFFERENT, "the two sides share no beginning")
    return prompt, tuple(s[at:] for s in sides)


def _difference(one: Turns, other: Turns) -> str:
    if len(one) != len(other):
        return f"{len(one)} turns and {len(other)} turns before the answer"
    i = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    a, b = one[i], other[i]
    if a["role"] != b["role"]:
        return f"turn {i + 1} is {a['role']} and {b['role']}"
    at = len(_shared([a["content"], b["content"]]))
    from_ = max(0, at - 10)
    return f"turn {i + 1}: {a['content'][from_ : at + 30]!r} and {b['content'][from_ : at + 30]!r}"


def _shared(texts: Sequence[str]) -> str:
    """The characters that all texts begin with."""
    first, last = min(texts), max(texts)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))]
