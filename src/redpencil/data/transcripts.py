"""Prompts out of whole conversations: what two sides share, and HH's Human / Assistant text.

An HH transcript is text like "\\n\\nHuman: hi\\n\\nAssistant: hello". What follows the colon is
kept to the letter but for its one leading space, so that render.py gives the original text back; a
turn without that space (HH's empty turns) gets one, which is counted. A transcript whose ends were
stripped begins with "Human:" itself; line breaks may be those of Windows.
"""

import re
from collections import Counter
from collections.abc import Sequence

from redpencil.data.contents import MUTED, SetAside, Turns, is_muted
from redpencil.data.render import SYSTEM_ROLES
from redpencil.types import Message

NO_ASSISTANT = "no assistant turn"
ALL_MUTED = "no assistant turn is to be learned"
DIFFERENT = "different prompts on the two sides"
NO_ANSWER = "transcript does not end with an assistant turn"
NO_BREAKS = '{n} transcripts begin with "Human:" without its line breaks; they are read with them'
NO_SPACE = '{n} transcript turns have no space after "Human:" or "Assistant:"; they get one'
_BREAKS = r"(?:\r?\n){2}"
_MARKER = re.compile(rf"(?:\A\s*|{_BREAKS})(Human|Assistant):")
_ANSWER = re.compile(rf"{_BREAKS}Assistant:")
_QUESTION = re.compile(rf"(?:\A\s*|{_BREAKS})Human:")
_OPEN = re.compile(rf"{_BREAKS}Assistant:\s*\Z")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    return _ANSWER.search(text) is not None


def is_open_transcript(text: str) -> bool:
    """A prompt: somebody asks in it, and it ends where the assistant is to speak."""
    return _OPEN.search(text) is not None and _QUESTION.search(text) is not None


def parse_transcript(text: str, notes: Counter[str]) -> Turns:
    """Turns of an HH transcript; text before the first marker is a system turn."""
    parts = _MARKER.split(text)
    if text.startswith(("Human:", "Assistant:")):
        notes[NO_BREAKS] += 1
    turns: list[Message] = [{"role": "system", "content": parts[0]}] if parts[0].strip() else []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        if not said.startswith(" "):
            notes[NO_SPACE] += 1
        turns.append({"role": _ROLES[speaker], "content": said.removeprefix(" ")})
    return tuple(turns)


def parse_prompt(text: str, notes: Counter[str]) -> Turns:
    """The turns of an open transcript, without the cue at its end."""
    cue = _OPEN.search(text)
    assert cue is not None, text[-40:]
    return parse_transcript(text[: cue.start()], notes)


def split_last_answer(turns: Turns) -> tuple[Turns, Turns]:
    """(prompt, response): the response is the assistant turn at the end, one turn: what a single
    generation gives. Raises SetAside if the conversation ends otherwise.
    """
    if not turns or turns[-1]["role"] != "assistant":
        last = str(turns[-1]["role"]) if turns else "nothing"
        raise SetAside(NO_ANSWER, f"it ends with {last}")
    return turns[:-1], turns[-1:]


def split_first_answer(turns: Turns) -> tuple[Turns, Turns]:
    """(prompt, response): the response begins with the first assistant turn that is learned."""
    answers = [i for i, t in enumerate(turns) if t["role"] == "assistant"]
    if not answers:
        raise SetAside(NO_ASSISTANT, f"{len(turns)} messages")
    at = next((i for i in answers if not is_muted(turns[i])), None)
    if at is None:
        raise SetAside(ALL_MUTED, f"{len(answers)} assistant turns")
    return turns[:at], turns[at:]


def shared_turns(sides: Sequence[Turns]) -> int:
    """How many leading turns all sides share, so that each goes on with an assistant turn."""
    shared = 0
    for at, turns in enumerate(zip(*sides, strict=False)):
        if all(t["role"] == "assistant" for t in turns):
            shared = at
        if any(t != turns[0] for t in turns[1:]):
            break
    return shared


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


def is_whole(turns: Turns) -> bool:
    """A conversation that somebody else begins: it holds its prompt."""
    return bool(turns) and turns[0]["role"] != "assistant"


def is_answer(turn: Message) -> bool:
    return turn["role"] == "assistant" and not turn.get("tool_calls")


def says(response: Turns, answer: Message) -> bool:
    return len(response) == 1 and alike(response, (answer,))


def alike(some: Turns, others: Turns) -> bool:
    """Equal turns, white space at the ends of what they say apart."""
    return len(some) == len(others) and all(
        {**a, "content": a["content"].strip()} == {**b, "content": b["content"].strip()}
        for a, b in zip(map(_bare, some), map(_bare, others), strict=True)
    )


def _bare(turn: Message) -> Message:
    return {k: v for k, v in turn.items() if k != MUTED}


def lead_of(before: Turns, conversation: Turns, others: Sequence[Turns]) -> Turns | None:
    """The beginning of a conversation that is the given prompt, or ends with it; None if none is.

    A system turn may stand in the conversation only.
    """
    at = max(i for i, t in enumerate(conversation) if t["role"] == "assistant")
    lead = conversation[:at]
    ends = not before or alike(lead[-len(before) :], before)
    if ends and all(s[:at] == lead for s in others):
        return lead
    heads = 0
    if before and before[0]["role"] not in SYSTEM_ROLES:
        while conversation[heads]["role"] in SYSTEM_ROLES:
            heads += 1
    until = heads + len(before)
    return conversation[:until] if alike(conversation[heads:until], before) else None


class TranscriptVote:
    """Whether most of the rows with text on both sides have Human / Assistant markers."""

    def __init__(self) -> None:
        self._texts = 0
        self._marked = 0

    def add(self, chosen: object, rejected: object) -> None:
        if isinstance(chosen, str) and isinstance(rejected, str):
            self._texts += 1
            self._marked += is_transcript(chosen) and is_transcript(rejected)

    def join(self, other: "TranscriptVote") -> None:
        """Add the rows that another vote has counted."""
        self._texts += other._texts
        self._marked += other._marked

    @property
    def won(self) -> bool:
        return 2 * self._marked > self._texts
