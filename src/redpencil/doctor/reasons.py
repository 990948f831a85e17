"""Rows that are no records, as findings: what each reason means for the data, and what to do."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from redpencil.data.labelled import UNPAIRED
from redpencil.data.parts import MISSING, MISTYPED, MIXED, UNREADABLE, Problem
from redpencil.data.rows import EMPTY
from redpencil.doctor.findings import Finding, Group, Severity
from redpencil.doctor.tally import Kind, Tally, readable, rows_of
from redpencil.types import Origin

_STOPS = "Training stops at the first such row."
_FIX = "--fix OUT.jsonl leaves them out"
_TEACHES_NOTHING = "Nothing can be learned from such a row; training sets it aside."
_LEFT_OUT = f"Training leaves them out; {_FIX}, too."
_MOST = 0.5
"""Share of the rows; what loses more of them is an error, whatever it is."""
_LITTLE = 0.1
"""Share of the rows; where less is left, the data are next to none."""
_LOOK_UPSTREAM = f"See how they came to be so; {_FIX}."
_TEMPLATE = "Try another --chat-template (none, or a jinja file), or leave these rows out."

_SIDES = ("chosen", "rejected", "chosen and rejected")

_Row = tuple[str, Group, Severity, str, str, str]
_MALFORMED: tuple[_Row, ...] = (
    (UNREADABLE, "structure", "error", "Unreadable rows", _STOPS, f"Write them anew; {_FIX}."),
    (
        MISSING,
        "structure",
        "error",
        "Rows that lack a column",
        f"{_STOPS} A column that is null counts as absent.",
        f"Fill it in, or name the right one with --columns; {_FIX}.",
    ),
    (
        MISTYPED,
        "structure",
        "error",
        "Values of the wrong kind",
        _STOPS,
        f"Write them in one of the shapes of docs/data.md; {_FIX}.",
    ),
    (
        MIXED,
        "structure",
        "error",
        "Rows of another shape",
        f"One data set has one shape. {_STOPS}",
        f"Give them in a file of their own; {_FIX} of this one.",
    ),
)

_ASIDE: dict[str, _Row] = {
    "empty response": (
        "empty-response",
        "preference",
        "error",
        "Empty responses",
        f"{_TEACHES_NOTHING} If it counted, an empty chosen answer would teach silence.",
        _LOOK_UPSTREAM,
    ),
    "empty prompt": (
        "empty-prompt",
        "structure",
        "error",
        "Empty prompts",
        _TEACHES_NOTHING,
        f"See whether the prompt is in another column (--columns prompt=NAME); {_FIX}.",
    ),
    "identical pair": (
        "identical-pair",
        "preference",
        "error",
        "Chosen and rejected are the same",
        "There is nothing to prefer: the gradient of such a pair is zero.",
        _LOOK_UPSTREAM,
    ),
    "different prompts on the two sides": (
        "different-prompts",
        "structure",
        "error",
        "Different prompts on the two sides",
        "Which answer is better was never asked for one question: the comparison is of two things.",
        _LOOK_UPSTREAM,
    ),
    "no assistant turn": (
        "no-assistant-turn",
        "structure",
        "error",
        "Conversations without an answer",
        _TEACHES_NOTHING,
        f"See whether a role has an unusual name; {_FIX}.",
    ),
    "no assistant turn is to be learned": (
        "nothing-weighed",
        "structure",
        "warning",
        "Answers that are not to be learned",
        "Every turn of the assistant has weight 0 (or loss or train false), so nothing is left.",
        f"See whether that is meant; {_FIX}.",
    ),
    "the conversation before the answers ends with an answer of its own": (
        "answer-in-conversation",
        "structure",
        "error",
        "Two prompts, one with an answer in it",
        "A model that reads an answer before it answers learns to repeat it.",
        f"Say which column is the prompt (--columns), or leave the other one out; {_FIX}.",
    ),
    "content that is not text": (
        "not-text",
        "structure",
        "error",
        "Pictures and other content that is not text",
        "redpencil reads text only; without its picture a row asks something else.",
        f"Leave these rows out; {_FIX}.",
    ),
    "response does not begin with an assistant turn": (
        "roles-out-of-order",
        "structure",
        "error",
        "Responses that begin with somebody else's turn",
        _TEACHES_NOTHING,
        _LOOK_UPSTREAM,
    ),
    "transcript does not end with an assistant turn": (
        "no-last-answer",
        "structure",
        "error",
        "Conversations that do not end with an answer",
        _TEACHES_NOTHING,
        _LOOK_UPSTREAM,
    ),
    "all responses tied": (
        "all-tied",
        "preference",
        "warning",
        "Every response tied",
        "Equal scores say nothing about what is better; training sets such a row aside.",
        f"Score them more finely, or do nothing: {_FIX}, as training does.",
    ),
    "fewer than two judged responses": (
        "unjudged",
        "preference",
        "warning",
        "Fewer than two judged responses",
        "With one score there is nothing to compare.",
        _LEFT_OUT,
    ),
    "identical responses": (
        "identical-responses",
        "preference",
        "error",
        "Every compared response is the same text",
        "There is nothing to prefer.",
        _LOOK_UPSTREAM,
    ),
    "no comparisons": (
        "no-comparisons",
        "preference",
        "warning",
        "Rows without a comparison",
        _TEACHES_NOTHING,
        _LEFT_OUT,
    ),
    "unpaired label": (
        "unpaired-label",
        "preference",
        "warning",
        "Labels without a counterpart",
        "A pair needs a true and a false answer to the same prompt; the others are set aside.",
        "For these rows, sample an answer of the other kind (redpencil generate), or use the true "
        "ones with redpencil sft.",
    ),
    "label is false": (
        "label-false",
        "preference",
        "note",
        "False rows",
        "SFT learns from the true rows only.",
        "Nothing must be done.",
    ),
    "no best response": (
        "no-best-response",
        "preference",
        "warning",
        "No response is the best",
        "Every response loses a comparison, so SFT has none to imitate.",
        "See whether the comparisons go round in a circle.",
    ),
    "not valid Unicode": (
        "not-unicode",
        "structure",
        "error",
        "Text that is no Unicode",
        "Half of a surrogate pair is no character; no tokenizer takes it.",
        f"Somebody cut a text by UTF-16 units: repair that; {_FIX}.",
    ),
    "needs a chat template": (
        "needs-template",
        "structure",
        "error",
        "Rows that plain text cannot say",
        "Tools and pictures can only be said by a chat template.",
        _TEMPLATE,
    ),
    "refused by the chat template": (
        "template-refuses",
        "structure",
        "error",
        "Rows that the chat template refuses",
        "Training sets them aside.",
        _TEMPLATE,
    ),
    "chat template does not continue its generation prompt": (
        "template-rewrites",
        "structure",
        "error",
        "Rows that the chat template rewrites",
        "Where the response begins cannot be told, so training sets them aside.",
        _TEMPLATE,
    ),
    "too long": (
        "too-long",
        "structure",
        "warning",
        "Rows that are too long",
        "Even with a shortened prompt they do not fit, so training sets them aside.",
        "Raise --max-length as far as the model takes it, or leave these rows out.",
    ),
    "identical token ids": (
        "identical-tokens",
        "preference",
        "error",
        "Different texts, the same token ids",
        "The tokenizer loses what the two answers differ in.",
        "Use a tokenizer that keeps the text.",
    ),
}
LITTLE = Kind(
    key="little-left",
    group="structure",
    severity="error",
    title="Next to nothing to learn from",
    why="A handful of rows is learned by heart: training on them says nothing about others.",
    advice="Give more data; where rows are lost, the other findings say why.",
)
DEFECTS = frozenset(_ASIDE) - {"unpaired label", "label is false", "no best response", "too long"}
"""Reasons that lie in the row itself: `--fix` takes such rows out. The others depend on other rows,
or on what the data is used for."""


class Problems:
    """Counts the rows that are no records, by what is wrong with them."""

    def __init__(self) -> None:
        self._malformed: dict[str, Tally] = {}
        self._aside: dict[str, Tally] = {}
        self._sides = Counter[str]()
        self.advice: dict[str, str] = {}
        """What is better than the table's, by reason."""
        self.paired_prompts = 0
        """Prompts that have an answer of each label, where rows have one."""

    def add(self, origin: Origin, problem: Problem) -> None:
        tallies = self._malformed if problem.malformed else self._aside
        # A reason without a row in the table would be a finding without advice.
        assert problem.malformed or problem.key in _ASIDE, problem.key
        detail = problem.detail.removeprefix(str(origin)).lstrip(",: ")
        if problem.key == EMPTY and detail in _SIDES:
            self._sides[detail] += 1
        tallies.setdefault(problem.key, Tally()).add(origin, readable(detail[:300]))

    @property
    def unreadable(self) -> int:
        return sum(t.count for t in self._malformed.values())

    @property
    def set_aside(self) -> Counter[str]:
        return Counter({reason: tally.count for reason, tally in self._aside.items()})

    def findings(self, total: int) -> Iterator[Finding]:
        for row in _MALFORMED:
            if tally := self._malformed.get(row[0]):
                yield _finding(row, tally, total, rows_of(tally.count, total))
        for reason, tally in self._aside.items():
            said = f"{rows_of(tally.count, total)}: {reason}"
            if reason == EMPTY and self._sides:
                said += f" ({', '.join(f'{side} {n:,}' for side, n in self._sides.items())})"
            if reason == UNPAIRED:
                s = "s have" if self.paired_prompts != 1 else " has"
                said += f"; {self.paired_prompts:,} prompt{s} answers with both labels"
            found = _finding(_ASIDE[reason], tally, total, said)
            advice = self.advice.get(reason, found.advice)
            lost = found.severity == "warning" and tally.count > _MOST * total
            yield replace(found, advice=advice, severity="error" if lost else found.severity)


def little_left(kept: int, records: int, total: int) -> Iterator[Finding]:
    """Where next to nothing can be learned from: an error, whatever became of the rows."""
    if records > 1 and kept >= _LITTLE * total:
        return
    left = f"{rows_of(kept, total)} {'is' if total == 1 else 'are'} left to learn from"
    one = "; of one prompt with its answers, nothing can be held out" if records == 1 else ""
    yield LITTLE.finding(Tally(total - kept or total), total, f"{left}{one}.")


def _finding(row: _Row, tally: Tally, total: int, text: str) -> Finding:
    key, group, severity, title, why, advice = row
    kind = Kind(key=key, group=group, severity=severity, title=title, why=why, advice=advice)
    return kind.finding(tally, total, f"{text}.")
