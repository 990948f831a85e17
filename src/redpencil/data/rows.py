"""One row of a known shape becomes a prompt, its responses and their comparisons.

Within a row text and turns may mix: a text prompt is then one user turn, a text response one
assistant turn. Responses may be whole conversations that repeat the prompt; what all of them go on
with belongs to it. The prompt of a row is found here for training and for all that answers prompts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from redpencil.data.contents import (
    Row,
    SetAside,
    Turns,
    is_blank,
    is_muted,
    same,
    text_or_turns,
    token_ids,
    unmuted,
)
from redpencil.data.judgements import judge, kept_responses, strength_of
from redpencil.data.shapes import Shape
from redpencil.data.transcripts import (
    ALL_MUTED,
    DIFFERENT,
    NO_ASSISTANT,
    is_answer,
    is_open_transcript,
    is_transcript,
    is_whole,
    lead_of,
    parse_prompt,
    parse_transcript,
    says,
    shared_turns,
    split_first_answer,
    split_last_answer,
    split_texts,
    split_transcripts,
    split_turns,
)
from redpencil.errors import DataError
from redpencil.types import Comparison, Content, Record

EMPTY = "empty response"
HOLDS_ANSWER = "the conversation before the answers ends with an answer of its own"
SPACED = (
    "{n} rows have a prompt that differs from their conversations by white space only; the "
    "conversations are taken"
)
HELD = "{n} rows had one of their answers at the end of the prompt, too; it was taken off"
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
        prompt, responses = self.contents(row)
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
        _, responses = self.contents(row)
        if self.shape.kind == "ranked":
            return kept_responses(row, self.by, responses)
        return list(range(len(responses)))

    def contents(self, row: Row) -> tuple[Content, Sequence[Content]]:
        """What is asked in a row, but for its `system`, and the answers to it, judged or not.

        Raises DataError for a wrong type, SetAside where prompt and answers cannot be told.
        """
        prompt, responses = self._contents(row)
        row.refuse_media((prompt, *responses))
        return unmuted(prompt) if isinstance(prompt, tuple) else prompt, responses

    def asked(self, row: Row) -> tuple[Content, Sequence[Content]]:
        """The same where no answer is needed: a conversation that waits for one is all prompt."""
        if (
            self.shape.kind != "prompt"
            and self.shape.columns[0] in ("messages", "conversations")
            and len(self._named) == 0
        ):
            turns = row.turns(self.shape.columns[0])
            if turns and turns[-1]["role"] != "assistant":
                row.refuse_media((turns,))
                return unmuted(turns), ()
        return self.contents(row)

    @property
    def _named(self) -> list[str]:
        """Columns with a response each."""
        return [c for c in self.shape.columns[1:] if c != "label"]

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
        if self.shape.kind == "prompt":
            return self._combine(row.text_or_turns("prompt"), ())
        if columns[0] != "conversations":
            return self._combine(row.text_or_turns("prompt"), self._answers(row))
        prompt, responses = self._combine(row.turns(columns[0]), self._answers(row))
        if row.get("prompt") is not None and isinstance(prompt, tuple) and is_answer(prompt[-1]):
            raise SetAside(HOLDS_ANSWER, 'there is a column "prompt" besides')
        return prompt, responses

    def _answers(self, row: Row) -> list[str | Turns]:
        if self.shape.kind == "ranked":
            values = row.sequence("responses")
            return [text_or_turns(row, "responses", v) for v in values]
        return [row.text_or_turns(c) for c in self._named]

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
        if isinstance(prompt, str) and is_open_transcript(prompt):
            before = parse_prompt(prompt, self.notes)
            return self._repeated(before, [self._after(prompt, r) for r in responses])
        if isinstance(prompt, str) and len(texts) == len(responses):
            return prompt, texts
        before = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
        said = [
            ({"role": "assistant", "content": r},) if isinstance(r, str) else r for r in responses
        ]
        return self._repeated(before, said)

    def _after(self, prompt: str, response: str | Turns) -> Turns:
        """What follows a transcript that ends with "Assistant:"; it may repeat the transcript."""
        if not isinstance(response, str):
            return response
        own = response.removeprefix(prompt)
        if own == response and is_transcript(response):
            turns = parse_transcript(response, Counter())
            if turns[0]["role"] == "user":
                return turns
        return ({"role": "assistant", "content": own.removeprefix(" ")},)

    def _repeated(self, before: Turns, said: list[Turns]) -> tuple[Content, Sequence[Content]]:
        """Take the prompt off responses that are whole conversations; what all responses share
        belongs to the prompt."""
        if any(is_whole(s) for s in said):
            before, said = self._without_prompt(before, said)
        elif before and all(s[: len(before)] == before for s in said if s) and len(before) > 1:
            said = [s[len(before) :] for s in said]
        if before and is_answer(before[-1]) and any(says(s, before[-1]) for s in said):
            self.notes[HELD] += 1
            before = before[:-1]
        if not before:
            raise SetAside("empty prompt", "no messages")
        if len(said) > 1 and (shared := shared_turns(said)):
            before, said = before + said[0][:shared], [s[shared:] for s in said]
        return before, [self._ended(s) for s in said]

    def _without_prompt(self, before: Turns, said: list[Turns]) -> tuple[Turns, list[Turns]]:
        """The prompt as the conversations among the responses have it, and what follows in them."""
        whole = [s for s in said if is_whole(s)]
        for turns in whole:
            if not any(t["role"] == "assistant" for t in turns):
                roles = ", ".join(dict.fromkeys(str(t["role"]) for t in turns))
                raise SetAside(NO_ASSISTANT, f"a response has turns of {roles} only")
        lead = lead_of(before, whole[0], whole)
        if lead is None or any(s[: len(lead)] != lead for s in whole):
            raise SetAside(DIFFERENT, "a conversation does not begin with the prompt")
        if before and lead[-len(before) :] != before:
            self.notes[SPACED] += 1
        return lead, [s[len(lead) :] if is_whole(s) else s for s in said]

    def _one(self, split: tuple[Turns, Turns]) -> tuple[Content, Sequence[Content]]:
        prompt, response = split
        if not prompt:
            raise SetAside("empty prompt", "the conversation begins with its answer")
        return prompt, [self._ended(response)]

    def _ended(self, turns: Turns) -> Turns:
        """The response up to the last assistant turn that is learned."""
        if turns and turns[0]["role"] != "assistant":
            raise SetAside("response does not begin with an assistant turn", turns[0]["role"])
        answers = [i for i, t in enumerate(turns) if t["role"] == "assistant"]
        learned = [i for i in answers if not is_muted(turns[i])]
        if answers and not learned:
            raise SetAside(ALL_MUTED, f"{len(answers)} assistant turns")
        if turns and answers[-1] + 1 < len(turns):
            self.notes[TRAILING] += 1
        return turns[: learned[-1] + 1] if learned else ()

    def _blank_names(self, responses: Sequence[Content]) -> list[str]:
        names = [c for c in self.shape.columns if c.startswith(("chosen", "rejected"))]
        names = names if len(names) == len(responses) else ["response"]
        return [name for name, r in zip(names, responses, strict=True) if is_blank(r)]

    def _remember(self, prompt: Content, responses: Sequence[Content]) -> None:
        if self.shape.columns[0].endswith("_ids"):
            return
        self.forms.add("strings" if isinstance(prompt, str) else "message lists")


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
        if str(prompt[0]["content"]).strip() == system.strip():
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
