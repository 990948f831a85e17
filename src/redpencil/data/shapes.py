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

    kind: Literal["pair", "implicit", "ranked", "labelled", "completion", "messages"]
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
        return ("sft",) if self.kind in ("completion", "messages") else ("preference", "sft")


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
    "chosen": ("good", "preferred", "winner", "chosen_response", "accepted", "better", "answer_a"),
    "rejected": ("bad", "dispreferred", "loser", "rejected_response", "worse", "answer_b"),
    "completion": ("response", "answer", "output", "target", "reply"),
    "responses": ("answers", "candidates", "completions", "outputs", "generations"),
    "scores": ("score", "ratings", "rewards", "grades"),
    "ranking": ("ranks", "rank"),
    "label": ("is_correct", "labels", "thumbs_up"),
    "messages": ("conversation", "dialogue", "dialog", "chat", "turns"),
    "conversations": ("conversation", "dialogue", "turns"),
}


def recognise(seen: Mapping[frozenset[str], Origin], purpose: Purpose, source: str) -> Shape:
    """The shape of a data set. seen: each set of columns that occurs, with its first row.

    Raises DataError for a missing column, for rows of different shapes, or for data of another
    purpose.
    """
    if not seen:
        raise DataError(f"{source}: no rows")
    union = frozenset[str]().union(*seen)
    shape = next((s for s in SHAPES if s.fits(union)), None)
    first = next(iter(seen.values()))
    if shape is None:
        raise _unknown(union, purpose, first)
    check_purpose(shape, union, purpose, first)
    for present, origin in seen.items():
        missing = [c for c in shape.needed(union) if c not in present]
        if missing:
            raise deviant(shape, present, missing[0], origin, union)
    return shape


def check_purpose(shape: Shape, union: frozenset[str], purpose: Purpose, first: Origin) -> None:
    """Data for SFT where preferences are wanted: DataError."""
    if purpose not in shape.taken:
        raise DataError(
            f"{first}: rows with {shape.name} are data for SFT; {_instead(union, purpose)}"
        )


def check_for_prompt(union: frozenset[str], first: Origin) -> None:
    """Text without turns and without "prompt", but with a column that must be it: DataError."""
    if theirs := _suggested("prompt", union):
        raise DataError(
            f'{first}: no column "prompt"; did you mean --columns prompt={theirs}? '
            "(if it is no prompt, leave this column out)"
        )


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


def _unknown(union: frozenset[str], purpose: Purpose, first: Origin) -> DataError:
    """The shape that is nearest, and what it lacks."""
    possible = [s for s in SHAPES if purpose in s.taken and "_ids" not in s.columns[0]]
    if any(c.endswith("_ids") and c in FIELDS for c in union):
        possible = [s for s in SHAPES if purpose in s.taken and "_ids" in s.columns[0]]

    def near(shape: Shape) -> tuple[int, bool, int]:
        lacks = [c for c in shape.needed(union) if c not in union]
        unknown = sum(_suggested(c, union) is None for c in lacks)
        found = len(shape.needed(union)) - unknown
        return -found, "conversations" in shape.columns, unknown

    # Whole conversations on two sides are rarely what a file without "prompt" has.
    best = min((s for s in possible if s.kind != "implicit"), key=near)
    missing = [c for c in best.needed(union) if c not in union]
    pairs = [(c, s) for c in missing if (s := _suggested(c, union))]
    if best.judged and missing == [JUDGEMENTS[-1]] and not pairs:
        return DataError(f"{first}: responses without scores, ranking or comparisons")
    if pairs:
        mapped = ",".join(f"{ours}={theirs}" for ours, theirs in pairs)
        return DataError(f'{first}: no column "{missing[0]}"; did you mean --columns {mapped}?')
    have = ", ".join(sorted(union)) or "none"
    return DataError(
        f'{first}: no column "{missing[0]}" (wanted: {best.name}); the columns are: {have}'
    )


def _instead(union: frozenset[str], purpose: Purpose) -> str:
    assert purpose == "preference", purpose
    if (theirs := _suggested("label", union)) is not None:
        return f"did you mean --columns label={theirs}?"
    return "preferences need chosen / rejected, responses with scores, or a label"


def _suggested(ours: str, present: frozenset[str]) -> str | None:
    """A column of theirs that may be our `ours`."""
    lowered = {c.lower(): c for c in sorted(present - set(FIELDS))}
    for alias in ALIASES.get(ours, ()):
        if alias in lowered:
            return lowered[alias]
    hint = did_you_mean(ours, lowered.values())
    return hint.split('"')[1] if "did you mean" in hint else None


def _hint(ours: str, present: frozenset[str]) -> str:
    theirs = _suggested(ours, present)
    return f"; did you mean {theirs!r}?" if theirs else ""
