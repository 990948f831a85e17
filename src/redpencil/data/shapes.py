"""Which shape a data set has, recognised from the columns of all its rows.

A shape is a set of columns. The one taken is the first in the table whose columns all occur
somewhere in the data; a row that lacks one of them then stops the reading, with its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from redpencil.data.columns import FIELDS
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
        "answer_a",
        "answer_matching_behavior",
    ),
    "rejected": (
        "bad",
        "dispreferred",
        "loser",
        "rejected_response",
        "worse",
        "answer_b",
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


def shape_of(present: frozenset[str]) -> Shape | None:
    """The first shape that a set of columns has."""
    return next((s for s in SHAPES if s.fits(present)), None)


def check_shape(shape: Shape, seen: Mapping[frozenset[str], Origin]) -> None:
    """Raises DataError for a row that is not of the data set's shape.

    seen: each set of columns that occurs, with its first row.
    """
    union = frozenset[str]().union(*seen)
    for present, origin in seen.items():
        missing = [c for c in shape.needed(union) if c not in present]
        if missing:
            raise deviant(shape, present, missing[0], origin, union)


def unused(shape: Shape, union: frozenset[str], purpose: Purpose) -> list[str]:
    """Columns of the data that this shape does not read."""
    read = {*shape.needed(union), *EXTRAS}
    read |= STRENGTHS if purpose == "preference" else {"weight"}
    if "comparisons" in read:
        read |= LABELLERS
    if "prompt_ids" in shape.columns:
        read -= EXTRAS
    return sorted(union - read)


def deviant(
    shape: Shape, present: frozenset[str], missing: str, origin: Origin, union: frozenset[str]
) -> DataError:
    """What is wrong with a row that lacks a column of the data set's shape."""
    other = next((s for s in SHAPES if s.fits(present) and s.kind != shape.kind), None)
    if other and not set(other.columns) <= set(shape.needed(union)):
        return DataError(
            f"{origin}: rows of different shapes: this one has {' / '.join(other.needed(present))},"
            f" others {' / '.join(shape.needed(union))}; give them in separate files"
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
