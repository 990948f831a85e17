"""Which shape a data set has, recognised from the columns of all its rows.

A shape is a set of columns. The one taken is the first in the table whose columns all occur
somewhere in the data; a row that lacks one of them then stops the reading, with its name. Shapes
that others write are in foreign.py: each says which of these its rows become.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redpencil.data.columns import FIELDS
from redpencil.data.structures import ROLES
from redpencil.errors import DataError, did_you_mean
from redpencil.types import Origin

Purpose = Literal["preference", "sft"]
JUDGEMENTS = ("comparisons", "ranking", "scores")
EXTRAS = frozenset({"system", "tools"})
STRENGTHS = frozenset({"weight", "margin", "probability"})
LABELLERS = frozenset({"rewards"})
"""What `redpencil generate` writes beside its comparisons, from which they were made."""


@dataclass(frozen=True, slots=True)
class Shape:
    """columns: what a row must have; judged: one of JUDGEMENTS too. kind: who reads the rows."""

    kind: Literal["pair", "implicit", "ranked", "labelled", "completion", "messages", "prompt"]
    columns: tuple[str, ...]
    judged: bool = False

    def needed(self, present: frozenset[str]) -> tuple[str, ...]:
        """Columns with the judgement that is used: the most direct one of those present."""
        if not self.judged:
            return self.columns
        by = next((j for j in JUDGEMENTS if j in present), JUDGEMENTS[-1])
        return (*self.columns, by)

    def fits(self, present: frozenset[str]) -> bool:
        return present.issuperset(self.needed(present))

    @property
    def name(self) -> str:
        judged = " / scores, ranking or comparisons" if self.judged else ""
        return " / ".join(self.columns) + judged

    @property
    def taken(self) -> tuple[Purpose, ...]:
        return _TAKEN.get(self.kind, ("preference", "sft"))


_TAKEN: Mapping[str, tuple[Purpose, ...]] = {
    "completion": ("sft",),
    "messages": ("sft",),
    "prompt": (),
}
SHAPES = (
    Shape("pair", ("prompt_ids", "chosen_ids", "rejected_ids")),
    Shape("ranked", ("prompt_ids", "responses_ids"), judged=True),
    Shape("labelled", ("prompt_ids", "completion_ids", "label")),
    Shape("completion", ("prompt_ids", "completion_ids")),
    Shape("pair", ("conversations", "chosen", "rejected")),
    Shape("pair", ("prompt", "chosen", "rejected")),
    Shape("implicit", ("chosen", "rejected")),
    Shape("ranked", ("conversations", "responses"), judged=True),
    Shape("ranked", ("prompt", "responses"), judged=True),
    Shape("labelled", ("prompt", "completion", "label")),
    Shape("labelled", ("messages", "label")),
    Shape("labelled", ("conversations", "label")),
    Shape("completion", ("prompt", "completion")),
    Shape("messages", ("messages",)),
    Shape("messages", ("conversations",)),
)

ALIASES = {
    "prompt": ("question", "instruction", "query", "input", "context", "source", "text"),
    "chosen": (
        "good",
        "preferred",
        "winner",
        "chosen_response",
        "accepted",
        "better",
        "answer_matching_behavior",
    ),
    "rejected": (
        "bad",
        "dispreferred",
        "loser",
        "rejected_response",
        "worse",
        "answer_not_matching_behavior",
    ),
    "completion": ("response", "answer", "output", "target", "reply"),
    "responses": ("answers", "candidates", "completions", "outputs", "generations"),
    "scores": ("score", "ratings", "rewards", "grades"),
    "ranking": ("ranks", "rank"),
    "label": ("is_correct", "labels", "thumbs_up"),
    "messages": ("conversation", "dialogue", "dialog", "chat", "turns"),
    "conversations": ("conversation", "dialogue", "turns"),
}


TEXT, TRANSCRIPT, NUMERAL = "text", "transcript", "number as text"
NUMBER, TRUTH = "number", "truth"
OBJECT, MESSAGE, OPEN, ANSWERED = "object", "message", "open turns", "answered turns"
TEXTS, OBJECTS, LIST, OTHER = "texts", "objects", "list", "other"
_NUMERAL = re.compile(r"\s*-?\d{1,18}(\.\d{0,18})?\s*")
_MOST_WORDS = 24
"""Different values of a column that are remembered: those that say who won are few."""


class Kinds:
    """What stands in each column: how often which kind of value, and the first short values."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.words: dict[str, set[str]] = {}
        self.fields: dict[str, frozenset[str]] = {}

    def see(self, cells: Mapping[str, Any]) -> None:
        for name, value in cells.items():
            if value is None:
                continue
            kind = kind_of(value)
            self.counts.setdefault(name, Counter())[kind] += 1
            if kind in (OBJECT, OBJECTS):
                inner = value if kind == OBJECT else value[0]
                known = self.fields.get(name, frozenset())
                if not known.issuperset(inner) and len(known) < _MOST_WORDS:
                    self.fields[name] = known | frozenset(map(str, inner))
            seen = self.words.setdefault(name, set())
            if len(seen) < _MOST_WORDS:
                seen.update(_short(value))

    def of(self, column: str) -> str:
        """The kind of most of a column's values; empty where it has none."""
        counted = self.counts.get(column)
        return counted.most_common(1)[0][0] if counted else ""

    @classmethod
    def together(cls, several: Iterable["Kinds"]) -> "Kinds":
        made = cls()
        for other in several:
            for name, counted in other.counts.items():
                made.counts.setdefault(name, Counter()).update(counted)
            for name, words in other.words.items():
                made.words.setdefault(name, set()).update(words)
            for name, fields in other.fields.items():
                made.fields[name] = made.fields.get(name, frozenset()) | fields
        return made


def _short(value: Any, depth: int = 2) -> Iterator[str]:
    """The short values in a cell, in lists and objects too: who won is said in few words."""
    if isinstance(value, str | int | float):
        word = str(value)[: _MOST_WORDS + 1].strip().lower()
        if len(word) <= _MOST_WORDS:
            yield word
    elif depth and isinstance(value, list | tuple):
        for item in value[:_MOST_WORDS]:
            yield from _short(item, depth - 1)
    elif depth and isinstance(value, Mapping):
        for item in value.values():
            yield from _short(item, depth - 1)


def kind_of(value: Any) -> str:
    """What a value is, of what shapes are told by."""
    if isinstance(value, str):
        if "\n\nAssistant:" in value:
            return TRANSCRIPT
        return NUMERAL if _NUMERAL.fullmatch(value) else TEXT
    if isinstance(value, bool):
        return TRUTH
    if isinstance(value, int | float):
        return NUMBER
    if isinstance(value, Mapping):
        return MESSAGE if _is_message(value) else OBJECT
    if not isinstance(value, list | tuple):
        return OTHER
    if value and all(isinstance(v, Mapping) for v in value):
        if not all(map(_is_message, value)):
            return OBJECTS
        role = value[-1].get("role", value[-1].get("from"))
        called = value[-1].get("tool_calls") or role == "function_call"
        spoke = isinstance(role, str) and ROLES.get(role.strip().lower()) == "assistant"
        return ANSWERED if spoke and not called else OPEN
    return TEXTS if value and all(isinstance(v, str) for v in value) else LIST


def _is_message(value: Mapping[str, Any]) -> bool:
    return ("role" in value or "from" in value) and ("content" in value or "value" in value)


def shape_of(present: frozenset[str]) -> Shape | None:
    """The first shape that a set of columns has."""
    return next((s for s in SHAPES if s.fits(present)), None)


def deviant(
    shape: Shape, needed: Sequence[str], present: frozenset[str], missing: str, origin: Origin
) -> DataError:
    """What is wrong with a row that lacks a column of the data set's shape."""
    other = next((s for s in SHAPES if s.fits(present) and s.kind != shape.kind), None)
    if other and not set(other.columns) <= set(needed):
        return DataError(
            f"{origin}: rows of different shapes: this one has {' / '.join(other.needed(present))},"
            f" others {' / '.join(needed)}; give them in separate files"
        )
    hint = _hint(missing, present - set(FIELDS))
    return DataError(
        f'{origin}: no column "{missing}" (or it is null), which other rows have{hint}'
    )


def likely_names(ours: str, present: frozenset[str]) -> list[str]:
    """Columns of theirs that may be our `ours`, the likeliest first."""
    lowered = {c.lower(): c for c in sorted(present - set(FIELDS))}
    named = [lowered[alias] for alias in ALIASES.get(ours, ()) if alias in lowered]
    # "ratings" looks like "ranking", but is the usual name of something else.
    others = {alias for name, aliases in ALIASES.items() if name != ours for alias in aliases}
    hint = did_you_mean(ours, (name for low, name in lowered.items() if low not in others))
    close = [hint.split('"')[1]] if "did you mean" in hint else []
    return list(dict.fromkeys(named + close))


def _hint(ours: str, present: frozenset[str]) -> str:
    theirs = likely_names(ours, present)
    return f"; did you mean {theirs[0]!r}?" if theirs else ""
