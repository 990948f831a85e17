"""What is known about K responses becomes comparisons; what teaches nothing is taken out, counted.

Scores: higher is better. Ranking: 1 is best. Comparisons: [winner, loser] or an object. Ties make
no comparison. A score that is null or NaN means "not judged": that response is left out, as is an
empty one; comparisons between identical responses are left out too.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from redpencil.data.contents import Row, SetAside, describe, is_blank, same
from redpencil.errors import did_you_mean
from redpencil.types import Comparison, Content

BLANK = "{n} empty responses among several were left out of their rows"
UNJUDGED = "{n} responses without a score were left out of their rows"
IDENTICAL = "{n} comparisons between identical responses were left out"


@dataclass(frozen=True, slots=True)
class Strength:
    """A row's `weight`, `margin` and `probability`, checked."""

    weight: float = 1.0
    margin: float = 0.0
    probability: float = 1.0

    def compare(self, chosen: int, rejected: int) -> Comparison:
        return Comparison(
            chosen=chosen,
            rejected=rejected,
            weight=self.weight,
            margin=self.margin,
            probability=self.probability,
        )


def strength_of(row: Row) -> Strength:
    """Of the row's own columns; DataError for a weight below 0, a probability outside [0, 1]."""
    if not ("weight" in row.cells or "margin" in row.cells or "probability" in row.cells):
        return Strength()
    return _strength(row, row.cells, "", Strength())


def _strength(row: Row, cells: Mapping[str, Any], inside: str, default: Strength) -> Strength:
    found = {}
    for name in ("weight", "margin", "probability"):
        value = cells.get(name)
        if value is None:
            continue
        number = finite(row, inside or name, value)
        if name == "weight" and number < 0:
            raise row.error(inside or name, f"a weight is at least 0, found {value}")
        if name == "probability" and not 0 <= number <= 1:
            raise row.error(inside or name, f"a probability is between 0 and 1, found {value}")
        found[name] = number
    return replace(default, **found) if found else default


def numbers_read(cells: Mapping[str, Any], remarks: Counter[str]) -> Mapping[str, Any]:
    """A row in which numbers that were written as text or as decimals are numbers, in the columns
    that hold numbers. remarks: takes the columns in which some were."""
    found: dict[str, Any] = {}
    for name in ("weight", "margin", "probability", "scores", "ranking", "score"):
        value = cells.get(name)
        if isinstance(value, str | Decimal):
            if (number := _number(value)) is not None:
                found[name] = number
        elif isinstance(value, list | tuple) and any(isinstance(v, str | Decimal) for v in value):
            numbers = [_number(v) if isinstance(v, str | Decimal) else v for v in value]
            if not any(n is None and v is not None for n, v in zip(numbers, value, strict=True)):
                found[name] = numbers
    for name in found:
        remarks[f'numbers in column "{name}" written as text or decimals are read as numbers'] += 1
    return {**cells, **found} if found else cells


def _number(value: str | Decimal) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def finite(row: Row, column: str, value: Any) -> float:
    """A finite number (not true/false), or DataError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise row.wrong(column, "a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise row.error(column, f"wanted a finite number, found {number}")
    return number


def judge(
    row: Row, by: str, responses: Sequence[Content], notes: Counter[str]
) -> tuple[tuple[Content, ...], tuple[Comparison, ...]]:
    """Responses worth keeping and their comparisons, by column `by`.

    Raises SetAside if no comparison remains.
    """
    strength = strength_of(row)
    if by == "comparisons":
        comparisons = _listed(row, len(responses), strength)
    else:
        values = _values(row, by, len(responses))
        comparisons = [strength.compare(i, j) for i, j in _better(values)]
    return _clean(responses, comparisons, _judged(row, by, len(responses)), notes)


def _judged(row: Row, by: str, count: int) -> set[int]:
    if by == "comparisons":
        return set(range(count))
    return {i for i, value in enumerate(_values(row, by, count)) if value is not None}


def _better(values: Sequence[float | None]) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, a in enumerate(values)
        for j, b in enumerate(values)
        if a is not None and b is not None and a > b
    ]


def kept_responses(row: Row, by: str, responses: Sequence[Content]) -> list[int]:
    """Places of the responses that `judge` keeps: neither empty nor without a judgement."""
    judged = _judged(row, by, len(responses))
    return [i for i in range(len(responses)) if i in judged and not is_blank(responses[i])]


def written_out(row: Row, by: str, count: int) -> list[dict[str, Any]]:
    """What column `by` says of a row's responses as comparisons, by their places in the row; with
    the strength of their own, where they were given any. The row is one that `judge` has taken."""
    if by != "comparisons":
        pairs = _better(_values(row, by, count))
        return [{"chosen": i, "rejected": j} for i, j in pairs]
    return [
        dict(item) if isinstance(item, Mapping) else {"chosen": item[0], "rejected": item[1]}
        for item in row.sequence(by)
    ]


def _clean(
    responses: Sequence[Content],
    comparisons: list[Comparison],
    judged: set[int],
    notes: Counter[str],
) -> tuple[tuple[Content, ...], tuple[Comparison, ...]]:
    full = [i for i in range(len(responses)) if not is_blank(responses[i])]
    kept = [i for i in full if i in judged]
    if len(kept) < 2:
        if len(full) < len(responses):
            raise SetAside("empty response", f"{len(responses) - len(full)} of {len(responses)}")
        raise SetAside("fewer than two judged responses", f"{len(kept)} of {len(responses)}")
    place = {old: new for new, old in enumerate(kept)}
    between = [c for c in comparisons if c.chosen in place and c.rejected in place]
    useful = [c for c in between if not same(responses[c.chosen], responses[c.rejected])]
    if not useful:
        if between:
            raise SetAside("identical responses", f"{len(kept)} responses")
        reason = "empty response" if comparisons else "all responses tied"
        raise SetAside(reason, f"{len(kept)} responses")
    for note, count in (
        (BLANK, len(responses) - len(full)),
        (UNJUDGED, len(full) - len(kept)),
        (IDENTICAL, len(between) - len(useful)),
    ):
        if count:
            notes[note] += count
    placed = (replace(c, chosen=place[c.chosen], rejected=place[c.rejected]) for c in useful)
    return tuple(responses[i] for i in kept), tuple(placed)


def _values(row: Row, by: str, count: int) -> list[float | None]:
    """One number for each response, higher is better; None where it was not judged."""
    raw = row.sequence(by)
    if len(raw) != count:
        raise row.error(by, f"{len(raw)} entries for {count} responses; give one for each")
    values: list[float | None] = []
    for value in raw:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            values.append(None)
            continue
        number = float(value) if isinstance(value, bool) else finite(row, by, value)
        if by == "ranking" and (isinstance(value, bool) or number < 1):
            raise row.error(
                by, f"the rank of each response, 1 for the best; found {describe(value)}"
            )
        values.append(-number if by == "ranking" else number)
    return values


def _listed(row: Row, count: int, strength: Strength) -> list[Comparison]:
    column = "comparisons"
    found = []
    for item in row.sequence(column):
        own = strength
        if isinstance(item, Mapping):
            for name in item:
                if name not in ("chosen", "rejected", "weight", "margin", "probability"):
                    known = ("chosen", "rejected", "weight", "margin", "probability")
                    raise row.error(column, f"unknown key {name!r}{did_you_mean(str(name), known)}")
            pair = (item.get("chosen"), item.get("rejected"))
            own = _strength(row, item, column, strength)
        elif isinstance(item, list | tuple) and len(item) == 2:
            pair = (item[0], item[1])
        else:
            raise row.wrong(column, "[winner, loser] or {chosen, rejected}", item)
        chosen, rejected = (_index(row, column, index, count) for index in pair)
        if chosen == rejected:
            raise row.error(column, f"response {chosen} is compared with itself")
        found.append(own.compare(chosen, rejected))
    if not found:
        raise SetAside("no comparisons", f"{count} responses")
    return found


def _index(row: Row, column: str, value: Any, count: int) -> int:
    if type(value) is not int or not 0 <= value < count:
        raise row.error(
            column, f"{describe(value)} is not the index of a response (0 to {count - 1})"
        )
    return value
