"""Roles in their order: what a conversation looks like before its answer."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from redpencil.data.reading import ReadRow, texts_of
from redpencil.data.render import SYSTEM_ROLES
from redpencil.doctor.findings import Finding
from redpencil.doctor.tally import Kind, Tally, excerpt, rows_of
from redpencil.types import Message

ORDER = Kind(
    key="roles-out-of-order",
    group="structure",
    severity="warning",
    title="Roles out of order",
    why="Chat templates expect user and assistant to take turns behind one system turn: some "
    "refuse such a conversation, others write one that the model never saw.",
    advice="Join turns of one speaker, put the system turn first, or leave these rows out.",
)
SILENT = Kind(
    key="empty-turn",
    group="structure",
    severity="warning",
    title="Empty turns in the conversation",
    why="A turn without words is a defect of the source, and a template may refuse it.",
    advice="Leave these turns, or rows, out.",
)


class TurnCheck:
    """Counts rows by what is out of order. Memory does not grow with the rows."""

    def __init__(self) -> None:
        self._order = Tally()
        self._kinds = Counter[str]()
        self._silent = Tally()

    def see_row(self, read: ReadRow) -> None:
        record = read.record
        if record is None or not isinstance(record.prompt, tuple):
            return
        responses = [r for r in record.responses if isinstance(r, tuple)]
        wrong = {kind for r in responses for kind in disorder(record.prompt, r)}
        if wrong:
            self._kinds.update(wrong)
            turns = " ".join(str(t.get("role")) for t in record.prompt)
            self._order.add(read.origin, f"{sorted(wrong)[0]}: {turns}, then the answer")
        if empty := [t for t in record.prompt if _says_nothing(t)]:
            place = record.prompt.index(empty[0]) + 1
            role = empty[0].get("role")
            said = f"turn {place} of {len(record.prompt)} ({role}) is empty"
            after = " ".join(texts_of(record.prompt[place : place + 1]))
            said += f"; the next says: {after}" if after else ""
            self._silent.add(read.origin, excerpt(said))

    def findings(self, total: int) -> Iterable[Finding]:
        if self._order.count:
            listed = ", ".join(f"{kind} {n:,}" for kind, n in self._kinds.most_common())
            said = f"{rows_of(self._order.count, total)}: {listed}."
            yield ORDER.finding(self._order, total, said)
        if self._silent.count:
            said = f"{rows_of(self._silent.count, total)} have a turn that says nothing."
            yield SILENT.finding(self._silent, total, said)


def disorder(prompt: Sequence[Message], response: Sequence[Message]) -> set[str]:
    """What is out of order in a conversation, in words; an empty set if nothing is."""
    turns = [(_role(turn), bool(turn.get("tool_calls"))) for turn in (*prompt, *response)]
    wrong = set()
    for at, ((earlier, calls), (later, _)) in enumerate(pairwise(turns), start=1):
        if later == "system" and earlier != "system":
            wrong.add("a system turn in the middle")
        elif earlier == later == "user":
            wrong.add("two user turns in a row")
        elif earlier == later == "assistant" and not calls:
            ends = "the prompt ends with the assistant"
            wrong.add(ends if at == len(prompt) else "two assistant turns in a row")
    if next((role for role, _ in turns if role != "system"), "") == "assistant":
        wrong.add("the assistant speaks first")
    return wrong


def _role(turn: Message) -> str:
    role = str(turn.get("role"))
    return "system" if role in SYSTEM_ROLES else role


def _says_nothing(turn: Message) -> bool:
    said = turn.get("content")
    return isinstance(said, str) and not said.strip() and not turn.get("tool_calls")
