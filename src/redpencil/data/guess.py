"""What is said of columns that are no known shape: the `--columns` that would do, if there are any.

Names are guessed, and what they give is read before it is said: of the first rows, with the reader
that training uses. Where nothing can be read, the message says what is missing.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from redpencil.data.columns import FIELDS
from redpencil.data.foreign import undecided
from redpencil.data.shapes import ALIASES, JUDGEMENTS, SHAPES, Purpose, Shape, likely_names
from redpencil.data.sources import RawRow
from redpencil.errors import DataError
from redpencil.types import Origin

FIRST_ROWS = 50
"""Rows on which a guess is tried."""
TRIED = 60
"""Guesses that are tried for one shape."""
_INNER = {
    "responses": ("text", "content", "message", *ALIASES["responses"], *ALIASES["completion"]),
    "scores": ALIASES["scores"] + ("rating", "reward", "grade"),
    "ranking": ALIASES["ranking"],
}
"""Fields of a list's objects that may be our lists."""

Columns = Mapping[str, str]
Losing = Callable[[Sequence[RawRow], Columns, Purpose], "list[str] | None"]


@dataclass(frozen=True, slots=True)
class Trial:
    """The first rows of some data, as they stand in their file, to try names on.

    columns: what the user said already. losing: which columns with text are not read of rows
    under these names; None where the rows cannot be read so.
    """

    rows: Sequence[RawRow]
    columns: Columns
    losing: Losing

    @classmethod
    def on(
        cls,
        rows: Iterable[RawRow],
        columns: Columns | None,
        losing: Losing,
    ) -> "Trial":
        whole = (row for row in rows if isinstance(row.cells, dict))
        return cls(list(islice(whole, FIRST_ROWS)), columns or {}, losing)

    def option(self, more: Columns, purpose: Purpose) -> str:
        """`--columns ...` with some more names, if the rows can be read so; else nothing."""
        columns = {**self.columns, **more}
        if any(set(",=") & set(path) for path in columns.values()):
            return ""
        if self.losing(self.rows, columns, purpose) is None:
            return ""
        ordered = sorted(columns, key=FIELDS.index)
        return "--columns " + shlex.quote(",".join(f"{ours}={columns[ours]}" for ours in ordered))

    def lost(self, more: Columns, purpose: Purpose) -> list[str]:
        """Columns with text that would not be read with these names."""
        return self.losing(self.rows, {**self.columns, **more}, purpose) or []


def unrecognised(union: frozenset[str], purpose: Purpose, first: Origin, trial: Trial) -> DataError:
    """For columns of no shape. union: all that occur, under our names as far as they are said."""
    if wrapped := _wrapped(trial.rows):
        return DataError(
            f'{first}: this is one object, and the rows are under "{wrapped}"; write that list to '
            "a file of its own"
        )
    have = ", ".join(sorted(trial.columns.get(c, c) for c in union)) or "none"
    guess = _guess(union, purpose, trial)
    if guess.option:
        return DataError(f'{first}: no column "{guess.missing}"; did you mean {guess.said}')
    if sentence := undecided(union):
        return DataError(f"{first}: {sentence}")
    if purpose == "preference" and (guess := _guess(union, "sft", trial)).option:
        return DataError(
            f"{first}: nothing here says which response is better; for SFT it is {guess.option} "
            f"(the columns are: {have})"
        )
    return DataError(f"{first}: {_lacking(union, purpose)}; the columns are: {have}")


def not_preferences(shape: Shape, union: frozenset[str], first: Origin, trial: Trial) -> DataError:
    """For data for SFT where preferences are wanted."""
    options = (trial.option({"label": name}, "preference") for name in likely_names("label", union))
    option = next((o for o in options if o), "")
    instead = (
        f"did you mean {option}?"
        if option
        else "preferences need chosen / rejected, responses with scores, or a label"
    )
    return DataError(f"{first}: rows with {shape.name} are data for SFT; {instead}")


def check_for_prompt(union: frozenset[str], first: Origin, trial: Trial | None) -> None:
    """Text without turns and without "prompt", but with a column that must be it: DataError.

    trial None: a name that may be the prompt's is enough."""
    for name in likely_names("prompt", union):
        option = trial.option({"prompt": name}, "preference") if trial else f"prompt={name}"
        if option:
            lost = trial.lost({"prompt": name}, "preference") if trial else []
            raise DataError(
                f'{first}: no column "prompt"; did you mean {_Guess("", option, lost).said} '
                "(if it is no prompt, leave this column out)"
            )


@dataclass(frozen=True, slots=True)
class _Guess:
    """missing: our first column that is missing; option: what names it; lost: whose text it would
    leave out."""

    missing: str = ""
    option: str = ""
    lost: Sequence[str] = ()

    @property
    def said(self) -> str:
        """The end of a question, with what it would cost."""
        if not self.lost:
            return f"{self.option}?"
        columns = " and ".join(f'"{name}"' for name in self.lost)
        return f"{self.option}? (but that leaves out the text in {columns})"


def _guess(union: frozenset[str], purpose: Purpose, trial: Trial) -> _Guess:
    """Names for our columns under which the rows can be read: the first that leave out no text,
    else those that leave out least."""
    inner = list(_inner_fields(trial.rows))
    best = _Guess()
    for shape in (s for s in SHAPES if purpose in s.taken):
        for needed in _needs(shape):
            known = [_names(ours, union, inner, judged=shape.judged) for ours in needed]
            for names in islice(product(*known), TRIED):
                more = {o: n for o, n in zip(needed, names, strict=True) if n != o}
                different = len(set(names)) == len(names)
                if more and different and (option := trial.option(more, purpose)):
                    lost = trial.lost(more, purpose)
                    if not lost:
                        return _Guess(next(iter(more)), option)
                    if not best.option or len(lost) < len(best.lost):
                        best = _Guess(next(iter(more)), option, lost)
    return best


def _needs(shape: Shape) -> Iterator[tuple[str, ...]]:
    for by in reversed(JUDGEMENTS) if shape.judged else ("",):
        yield (*shape.columns, by) if by else shape.columns


def _names(
    ours: str, union: frozenset[str], inner: Sequence[tuple[str, str]], *, judged: bool
) -> list[str]:
    """What our column may be called here, the likeliest first."""
    names = [ours] if ours in union else likely_names(ours, union)
    fields = _INNER.get(ours, ()) if judged else ()
    return names + [f"{column}.{name}" for column, name in inner if name.lower() in fields]


def _inner_fields(rows: Sequence[RawRow]) -> Iterator[tuple[str, str]]:
    """(column, field) of columns that are lists of objects."""
    seen: dict[tuple[str, str], None] = {}
    for row in rows:
        assert isinstance(row.cells, dict), row.cells
        for column, value in row.cells.items():
            if _is_table(value):
                seen.update({(column, str(name)): None for name in value[0]})
    yield from seen


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _wrapped(rows: Sequence[RawRow]) -> str:
    """The column of an only row that holds all the rows: objects that are no messages."""
    if len(rows) != 1 or not isinstance(rows[0].cells, dict):
        return ""
    for name, value in rows[0].cells.items():
        if _is_table(value) and not {"role", "from"} & set(value[0]):
            known = {ours for shape in SHAPES for ours in shape.columns}
            likely = known | {alias for ours in known for alias in ALIASES.get(ours, ())}
            if len({str(field).lower() for field in value[0]} & likely) >= 2:
                return str(name)
    return ""


def _lacking(union: frozenset[str], purpose: Purpose) -> str:
    """What is missing for the shape that is nearest, if any is near."""
    with_ids = any(c.endswith("_ids") and c in FIELDS for c in union)
    # Whole conversations on two sides are rarely what a file without "prompt" has.
    possible = [
        s
        for s in SHAPES
        if purpose in s.taken and s.kind != "implicit" and ("_ids" in s.columns[0]) == with_ids
    ]

    def missing(shape: Shape) -> list[str]:
        needed = shape.needed(union)
        return [c for c in needed if c not in union and not likely_names(c, union)]

    def near(shape: Shape) -> tuple[int, int]:
        lacks = len(missing(shape))
        return len(shape.needed(union)) - lacks, -lacks

    best = max(possible, key=near)
    if near(best)[0] == 0:
        known = "; ".join(s.name for s in possible if "prompt" in s.columns or with_ids)
        return (
            f"none of the known shapes ({known}; more in docs/data.md), so name yours with "
            "--columns OURS=YOURS"
        )
    lacks = missing(best)
    if best.judged and set(lacks) <= set(JUDGEMENTS):
        return "responses without scores, ranking or comparisons"
    named = " and no ".join(f'"{c}"' for c in lacks)
    return f"no column {named} (wanted: {best.name})" if lacks else f"no rows of {best.name}"
