"""One row of a known shape becomes a prompt, its responses and their comparisons.

Within a row text and turns may mix: a text prompt is then one user turn, a text response one
assistant turn. Responses may be whole conversations that repeat the prompt.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from redpencil.data.contents import Row, SetAside, Turns, is_blank, same, text_or_turns, token_ids
from redpencil.data.judgements import judge, kept_responses, strength_of
from redpencil.data.shapes import Shape
from redpencil.data.transcripts import (
    ASSISTANT,
    DIFFERENT,
    HUMAN,
    is_transcript,
    parse_transcript,
    split_first_answer,
    split_last_answer,
    split_texts,
    split_transcripts,
    split_turns,
)
from redpencil.errors import DataError
from redpencil.types import Comparison, Content, Record

EMPTY = "empty response"
TRAILING = "{n} responses had turns after the last assistant turn; these were left out"
CUT = (
    "{n} rows had no prompt column and no turns: the beginning that both sides share, up to its "
    "last space or line break, is taken as the prompt"
)


@dataclass(slots=True)
class Reader:
    """Reads rows of one shape. notes counts what was left out within rows; forms, what they are.

    transcripts: chosen and rejected are HH transcripts (decided over all rows).
    """

    shape: Shape
    by: str
    transcripts: bool = False
    notes: Counter[str] = field(default_factory=Counter)
    forms: set[str] = field(default_factory=set)

    def read(self, row: Row) -> Record:
        """Raises DataError for a wrong type, SetAside for an unusable row."""
        prompt, responses = self._contents(row)
        self._remember(prompt, responses)
        comparisons: tuple[Comparison, ...] = ()
        if self.shape.kind == "ranked":
            responses, comparisons = judge(row, self.by, responses, self.notes)
        else:
            if any(is_blank(r) for r in responses):
                raise SetAside(EMPTY, " and ".join(self._blank_names(responses)))
            if len(responses) == 2:
                if same(*responses):
                    raise SetAside("identical pair")
                comparisons = (strength_of(row).compare(0, 1),)
        prompt, responses = with_system(row, prompt, responses)
        return Record(
            prompt=prompt,
            responses=tuple(responses),
            comparisons=comparisons,
            origin=row.origin,
            tools=None if self.shape.columns[0].endswith("_ids") else row.tools(),
        )

    def places(self, row: Row) -> list[int]:
        """Where the responses of the row's record stand among all of the row's."""
        _, responses = self._contents(row)
        if self.shape.kind == "ranked":
            return kept_responses(row, self.by, responses)
        return list(range(len(responses)))

    def _contents(self, row: Row) -> tuple[Content, Sequence[Content]]:
        columns = self.shape.columns
        if columns[0].endswith("_ids"):
            return self._ids(row)
        if self.shape.kind == "implicit":
            return self._implicit(row)
        if self.shape.kind == "messages":
            return self._one(split_first_answer(row.turns(columns[0])))
        if self.shape.kind == "labelled" and columns[0] in ("messages", "conversations"):
            return self._one(split_last_answer(row.turns(columns[0])))
        is_turns = columns[0] == "conversations"
        prompt = row.turns(columns[0]) if is_turns else row.text_or_turns("prompt")
        return self._combine(prompt, self._answers(row))

    def _answers(self, row: Row) -> list[str | Turns]:
        if self.shape.kind == "ranked":
            values = row.sequence("responses")
            return [text_or_turns(row, "responses", v) for v in values]
        named = [c for c in self.shape.columns[1:] if c != "label"]
        return [row.text_or_turns(c) for c in named]

    def _ids(self, row: Row) -> tuple[Content, Sequence[Content]]:
        prompt = row.ids("prompt_ids")
        if self.shape.kind == "ranked":
            values = row.sequence("responses_ids")
            responses = [token_ids(row, "responses_ids", v) for v in values]
        else:
            responses = [row.ids(c) for c in self.shape.columns[1:] if c.endswith("_ids")]
        if len(prompt) == 0:
            raise SetAside("empty prompt", "no token ids")
        return prompt, responses

    def _implicit(self, row: Row) -> tuple[Content, Sequence[Content]]:
        sides = [row.text_or_turns("chosen"), row.text_or_turns("rejected")]
        texts = [s for s in sides if isinstance(s, str)]
        turns = [s for s in sides if not isinstance(s, str)]
        if len(texts) == 2:
            if any(not t.strip() for t in texts):
                raise SetAside(EMPTY, " and ".join(self._blank_names(texts)))
            if self.transcripts:
                return split_transcripts(texts, self.notes)
            if texts[0] == texts[1]:
                raise SetAside("identical pair")
            self.notes[CUT] += 1
            return split_texts(texts)
        if len(turns) == 2:
            if any(not s for s in turns):
                raise SetAside(EMPTY, "no messages")
            if turns[0] == turns[1]:
                raise SetAside("identical pair")
            prompt, responses = split_turns(turns)
            return prompt, [self._ended(r) for r in responses]
        raise DataError(
            f'{row.origin}: "chosen" and "rejected" are text and a list of messages; '
            'without a column "prompt" both must be the same kind'
        )

    def _combine(
        self, prompt: str | Turns, responses: Sequence[str | Turns]
    ) -> tuple[Content, Sequence[Content]]:
        texts = [r for r in responses if isinstance(r, str)]
        if isinstance(prompt, str) and len(texts) == len(responses):
            if prompt.startswith(HUMAN) and prompt.rstrip(" ").endswith(ASSISTANT):
                return self._after_transcript(prompt, texts)
            return prompt, texts
        before: Turns = (
            ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
        )
        said = [
            ({"role": "assistant", "content": r},) if isinstance(r, str) else r for r in responses
        ]
        return self._repeated(before, said)

    def _repeated(self, before: Turns, said: list[Turns]) -> tuple[Content, Sequence[Content]]:
        """Take the prompt off responses that are whole conversations."""
        if any(s and s[0]["role"] != "assistant" for s in said):
            lead = _leading(next(s for s in said if s and s[0]["role"] != "assistant"))
            # A system turn may stand in the conversations only.
            ends = not before or lead[-len(before) :] == before
            if not ends or any(s and s[: len(lead)] != lead for s in said):
                longer = [s[: len(before)] == before for s in said if s]
                if not all(longer):
                    raise SetAside(DIFFERENT, "a conversation does not begin with the prompt")
                lead = before
            before, said = lead, [s[len(lead) :] for s in said]
        elif before and all(s[: len(before)] == before for s in said if s) and len(before) > 1:
            said = [s[len(before) :] for s in said]
        if not before:
            raise SetAside("empty prompt", "no messages")
        return before, [self._ended(s) for s in said]

    def _after_transcript(self, prompt: str, texts: list[str]) -> tuple[Content, Sequence[Content]]:
        """A prompt that ends with "Assistant:", and what follows it."""
        turns = parse_transcript(prompt.rstrip(" "), Counter())
        said = []
        for text in texts:
            own = text.removeprefix(prompt) if text.startswith(prompt) else text
            said.append(({"role": "assistant", "content": own.removeprefix(" ")},))
        return turns[:-1], said

    def _one(self, split: tuple[Turns, Turns]) -> tuple[Content, Sequence[Content]]:
        prompt, response = split
        if not prompt:
            raise SetAside("empty prompt", "the conversation begins with its answer")
        return prompt, [self._ended(response)]

    def _ended(self, turns: Turns) -> Turns:
        """The response up to its last assistant turn."""
        last = max((i for i, t in enumerate(turns) if t["role"] == "assistant"), default=-1)
        if turns and turns[0]["role"] != "assistant":
            raise SetAside("response does not begin with an assistant turn", turns[0]["role"])
        if turns and last + 1 < len(turns):
            self.notes[TRAILING] += 1
        return turns[: last + 1]

    def _blank_names(self, responses: Sequence[Content]) -> list[str]:
        names = [c for c in self.shape.columns if c.startswith(("chosen", "rejected"))]
        names = names if len(names) == len(responses) else ["response"]
        return [name for name, r in zip(names, responses, strict=True) if is_blank(r)]

    def _remember(self, prompt: Content, responses: Sequence[Content]) -> None:
        if self.shape.columns[0].endswith("_ids"):
            return
        self.forms.add("strings" if isinstance(prompt, str) else "message lists")


def _leading(turns: Turns) -> Turns:
    """The turns before the last assistant turn."""
    at = max((i for i, t in enumerate(turns) if t["role"] == "assistant"), default=0)
    return turns[:at]


def with_system(
    row: Row, prompt: Content, responses: Sequence[Content]
) -> tuple[Content, Sequence[Content]]:
    """The `system` column as the first turn of the prompt."""
    system = row.system()
    if not system.strip() or not isinstance(prompt, str | tuple):
        return prompt, responses
    if isinstance(prompt, str):
        prompt = ({"role": "user", "content": prompt},)
        responses = [({"role": "assistant", "content": r},) for r in responses]
    if prompt and prompt[0]["role"] in ("system", "developer"):
        if prompt[0]["content"] == system:
            return prompt, responses
        raise row.error("system", "the conversation has another system turn already")
    return ({"role": "system", "content": system}, *prompt), responses


def best_only(record: Record, weight: float) -> Record:
    """For SFT: the responses that win and never lose. Raises SetAside if there is none."""
    losers = {c.rejected for c in record.comparisons}
    winners = sorted({c.chosen for c in record.comparisons} - losers)
    kept: list[Content] = []
    for i in winners:
        if not any(same(record.responses[i], other) for other in kept):
            kept.append(record.responses[i])
    if not kept:
        raise SetAside("no best response", "every response loses a comparison")
    return replace(record, responses=tuple(kept), comparisons=(), weights=(weight,) * len(kept))


class TranscriptVote:
    """Whether most of the rows with text on both sides have Human / Assistant markers."""

    def __init__(self) -> None:
        self._texts = 0
        self._marked = 0

    def add(self, chosen: object, rejected: object) -> None:
        if isinstance(chosen, str) and isinstance(rejected, str):
            self._texts += 1
            self._marked += is_transcript(chosen) and is_transcript(rejected)

    @property
    def won(self) -> bool:
        return 2 * self._marked > self._texts
