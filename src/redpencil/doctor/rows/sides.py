"""The two sides of a pair: nearly the same, the one a part of the other, or the wrong way round."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from redpencil.data.reading import ReadRow, texts_of
from redpencil.data.shapes import ALIASES
from redpencil.doctor.findings import Finding
from redpencil.doctor.rows.patterns import is_placeholder
from redpencil.doctor.tally import Kind, Tally, excerpt, rows_of
from redpencil.types import Content

PREFIX = Kind(
    key="prefix-pair",
    group="preference",
    severity="note",
    title="One answer is the beginning of the other",
    why="What both begin with cancels in the loss: such a pair teaches only where to stop.",
    advice="Right if it is about stopping; else see whether one of them was cut off.",
)
WHITESPACE = Kind(
    key="whitespace-pair",
    group="preference",
    severity="warning",
    title="Pairs that differ in white space only",
    why="The model learns where spaces and line breaks go, and nothing else.",
    advice="Leave these rows out, or strip both sides and see that they are identical.",
)
SWAPPED = Kind(
    key="swapped-columns",
    group="preference",
    severity="error",
    title="Chosen and rejected look swapped",
    why="Training would teach the opposite of what people preferred.",
    advice="Look at ten rows. If it is so, swap the columns:",
)
SCORES = Kind(
    key="score-disagrees",
    group="preference",
    severity="warning",
    title="Scores that contradict the order",
    why="By the file's own scores the rejected response is the better one.",
    advice="See which is right; leave these rows out, or swap their sides.",
)
EVEN = Kind(
    key="score-tie",
    group="preference",
    severity="note",
    title="Equal scores on both sides",
    why="By the file's own scores neither response is better, so the label is a coin toss.",
    advice="Leave these rows out, or give them a probability column with 0.5.",
)

_SCORE_WORDS = ("score", "rating", "reward", "grade")
_ENOUGH = 10
"""Rows from which a majority of them says that the columns are swapped."""


class SideCheck:
    """Looks at rows with a chosen and a rejected side. Memory does not grow with the rows."""

    def __init__(self, columns: Mapping[str, str], needed: Sequence[str]) -> None:
        """columns: of --columns. needed: our names of the columns that the data's shape has."""
        self._columns = columns
        ids = "_ids" if "chosen_ids" in needed else ""
        self._sides = f"chosen{ids}", f"rejected{ids}"
        self._turned = _names_swapped(columns)
        self._prefix = Tally()
        self._prefers_short = 0
        self._whitespace = Tally()
        self._even = Tally()
        self._against = Tally()
        self._with_scores = 0
        self._names: tuple[str, str] | None = None
        self._bad = Counter[str]()
        self._first_bad = Tally()

    def see_row(self, read: ReadRow) -> None:
        if read.row is None:
            return
        self._see_scores(read)
        sides = [read.row.get("chosen"), read.row.get("rejected")]
        self._see_silence(read, sides)
        if read.record is not None and len(read.record.responses) == 2:
            self._see_texts(read, *map(_text, read.record.responses))

    def _see_texts(self, read: ReadRow, chosen: str, rejected: str) -> None:
        one, other = chosen.strip(), rejected.strip()
        if not one or not other:
            return
        if one == other or one.split() == other.split():
            self._whitespace.add(read.origin, excerpt(f"{chosen!r} and {rejected!r}"))
        elif one.startswith(other) or other.startswith(one):
            self._prefers_short += len(one) < len(other)
            shorter, longer = sorted((one, other), key=len)
            at = len(shorter)
            self._prefix.add(read.origin, excerpt(f"{shorter[-60:]} | {longer[at : at + 60]}"))

    def _see_scores(self, read: ReadRow) -> None:
        cells = read.raw.cells
        assert isinstance(cells, dict)
        if self._names is None or not cells.keys() >= set(self._names):
            self._names = _score_columns(cells)
            if self._names is None:
                return
        names = self._names[::-1] if self._turned else self._names
        chosen, rejected = (_number(cells[name]) for name in names)
        if chosen is None or rejected is None:
            return
        self._with_scores += 1
        if chosen <= rejected:
            tally = self._even if chosen == rejected else self._against
            tally.add(read.origin, f"{names[0]} {chosen:g}, {names[1]} {rejected:g}")

    def _see_silence(self, read: ReadRow, sides: list[Any]) -> None:
        """Which side is nothing, or says only that there is none."""
        silent = [isinstance(s, str) and (not s.strip() or is_placeholder(s)) for s in sides]
        if silent[0] != silent[1]:
            self._bad["chosen" if silent[0] else "rejected"] += 1
            if silent[0]:
                self._first_bad.add(
                    read.origin, f"chosen {sides[0]!r}, rejected {_shown(sides[1])}"
                )

    def findings(self, total: int) -> Iterable[Finding]:
        yield from self._swapped(total)
        if self._whitespace.count:
            said = f"{rows_of(self._whitespace.count, total)} differ in white space only."
            yield WHITESPACE.finding(self._whitespace, total, said)
        if self._prefix.count:
            said = (
                f"{rows_of(self._prefix.count, total)}; the shorter one is chosen in "
                f"{self._prefers_short:,}."
            )
            yield PREFIX.finding(self._prefix, total, said)

    def _swapped(self, total: int) -> Iterable[Finding]:
        swapped = replace(SWAPPED, advice=f"{SWAPPED.advice} {_swap(self._columns, self._sides)}")
        against, even = self._against.count, self._even.count
        scored = self._with_scores
        chosen, rejected = self._bad["chosen"], self._bad["rejected"]
        backed = _mostly(scored - against - even, scored - even) or _silent(rejected, chosen, total)
        if self._turned and not backed:
            yield swapped.finding(Tally(total), total, self._turned)
        if _mostly(against, scored - even):
            said = f"The rejected response has the higher score in {rows_of(against, scored)}."
            yield swapped.finding(self._against, scored, said)
        elif against:
            said = f"The rejected response has the higher score in {rows_of(against, scored)}."
            yield SCORES.finding(self._against, scored, said)
        if even:
            said = f"{rows_of(even, scored)} have the same score on both sides."
            yield EVEN.finding(self._even, scored, said)
        if _silent(chosen, rejected, total):
            said = (
                f"Only the chosen answer is empty or a stand-in in {rows_of(chosen, total)}, only "
                f"the rejected one in {rejected:,}."
            )
            yield swapped.finding(self._first_bad, total, said)


def _text(response: Content) -> str:
    return "\n".join(texts_of(response))


def _shown(value: Any) -> str:
    return repr(value[:60]) if isinstance(value, str) else "is a list of messages"


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if number == number else None


def _score_columns(cells: Mapping[str, Any]) -> tuple[str, str] | None:
    """Two columns of scores, one for each side: "score_chosen", "rejected_rating"."""
    for name in cells:
        lowered = name.lower()
        if "chosen" in lowered and any(word in lowered for word in _SCORE_WORDS):
            other = name.replace("chosen", "rejected").replace("Chosen", "Rejected")
            if other != name and other in cells:
                return name, other
    return None


def _mostly(count: int, of: int) -> bool:
    return count >= _ENOUGH and 2 * count > of


def _silent(one: int, other: int, total: int) -> bool:
    """Whether one side has the stand-ins, and the other hardly any."""
    return one >= max(_ENOUGH, 0.2 * total) and one >= 5 * other


def _swap(columns: Mapping[str, str], sides: tuple[str, str]) -> str:
    """What to type so that the sides change places."""
    chosen, rejected = sides
    turned = {chosen: columns.get(rejected, rejected), rejected: columns.get(chosen, chosen)}
    named = {ours: theirs for ours, theirs in {**columns, **turned}.items() if ours != theirs}
    listed = ",".join(f"{ours}={theirs}" for ours, theirs in named.items())
    return f"--columns {shlex.quote(listed)}" if listed else "leave --columns out"


def _names_swapped(columns: Mapping[str, str]) -> str:
    """--columns that gives one side the other's usual name."""
    wrong = [
        f"{side}={columns[side]}"
        for side, other in (("chosen", "rejected"), ("rejected", "chosen"))
        if columns.get(side, "").lower() in (other, *ALIASES[other])
    ]
    return f"--columns says {','.join(wrong)}." if wrong else ""
