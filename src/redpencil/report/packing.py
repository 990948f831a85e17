"""The notebook's pairs as one packed payload: columns of numbers, every text and token once."""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redpencil.report.embed import LONGEST_TEXT, clean, cut, pack
from redpencil.report.entries import Entry

if TYPE_CHECKING:
    from redpencil.notebook import PairHistory

BUDGET = 4_100_000
"""Bytes that the pairs may take in the page (packed): all numbers stay, texts are shortened."""

LONGEST = LONGEST_TEXT

WORST = 300
"""So many of the most wrongly ordered pairs keep long texts when the rest must be shortened."""

_CAPS = (4000, 2000, 1400, 1000, 800, 650, 500, 400, 320, 250, 190, 140, 100, 60, 0)
"""Characters for the texts of all but the worst pairs, tried in turn until the budget holds."""

MOST_MEASUREMENTS = 60
"""Points of a pair's course."""
MANY = 2_000
"""Of more pairs than this, a course has a third of that."""

_NUMBERS = (
    "margin",
    "weight",
    "reward_chosen",
    "reward_rejected",
    "logp_chosen",
    "logp_rejected",
    "ref_logp_chosen",
    "ref_logp_rejected",
    "length_chosen",
    "length_rejected",
    "row",
)


class Table:
    """Values that are stored once and named by their place."""

    def __init__(self) -> None:
        self.places: dict[Any, int] = {}

    def place(self, value: Any) -> int:
        return self.places.setdefault(value, len(self.places))


def pack_entries(found: Sequence[Entry]) -> tuple[str, int]:
    """The payload, and the characters that the shortest-kept texts may have."""
    numbers = _numbers(found) | _courses(found) | _tokens(found)
    room = BUDGET - len(pack(_dump(numbers)))
    ratio = 1 / 6  # no text is packed smaller, so what is longer need not be tried
    for longest in _CAPS:
        characters = _characters(found, longest)
        if characters * ratio > room and longest != _CAPS[-1]:
            continue
        packed = pack(_dump(numbers | _texts(found, longest)))
        if len(packed) <= BUDGET:
            break
        ratio = (len(packed) - BUDGET + room) / max(1, characters)
    return packed, longest


def _dump(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _numbers(found: Sequence[Entry]) -> dict[str, Any]:
    """Columns: a list for each number, in the order of the pairs."""
    splits, kinds, files = Table(), Table(), Table()
    columns: dict[str, list[Any]] = {
        name: [digits(getattr(e.pair, name)) for e in found] for name in _NUMBERS
    }
    columns["split"] = [splits.place(e.pair.split) for e in found]
    columns["pair"] = [e.pair.pair for e in found]
    columns["file"] = [files.place(cut(e.pair.file, 300)) for e in found]
    columns["kind"] = [kinds.place(e.history.kind if e.history else "") for e in found]
    columns["turns"] = [e.history.turns if e.history else None for e in found]
    columns["first"] = [digits(e.history.first_margin) if e.history else None for e in found]
    columns["probability"] = [digits(e.probability) for e in found]
    names = {"splits": [*splits.places], "kinds": [*kinds.places], "files": [*files.places]}
    return {"columns": columns, **names}


def digits(value: float | None) -> float | int | None:
    """Four significant digits; whole numbers stay whole."""
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _courses(found: Sequence[Entry]) -> dict[str, Any]:
    """Margins over the steps, as multiples of a unit that is fine enough to draw."""
    most = MOST_MEASUREMENTS if len(found) <= MANY else MOST_MEASUREMENTS // 3
    courses = [_course(e.history, most) if e.history else [] for e in found]
    reach = max((abs(margin) for course in courses for _, margin in course), default=0.0)
    unit = float(f"{reach / 1000:.3g}") or 1.0
    steps = Table()
    rows = [
        [steps.place(tuple(step for step, _ in course)), *(round(m / unit) for _, m in course)]
        for course in courses
    ]
    return {"unit": unit, "steps": [*steps.places], "courses": rows}


def _course(history: "PairHistory", most: int) -> list[tuple[int, float]]:
    known = [(s, m) for s, m in history.margins if m is not None and math.isfinite(m)]
    if len(known) <= most:
        return known
    chosen = {round(i * (len(known) - 1) / (most - 1)) for i in range(most)}
    return [known[i] for i in sorted(chosen)]


def _tokens(found: Sequence[Entry]) -> dict[str, Any]:
    """Token views by the pair's place; `reach`: the log-ratio at which colours are full."""
    pieces = Table()
    views: dict[int, list[list[Any]]] = {}
    sizes: list[float] = []
    for place, entry in enumerate(found):
        if entry.tokens is None:
            continue
        sides: list[list[Any]] = []
        for side in (entry.tokens.chosen, entry.tokens.rejected):
            values = [nats if math.isfinite(nats) else 0.0 for _, nats in side]
            sizes += [abs(v) for v in values]
            places = [pieces.place(clean(piece)[:200]) for piece, _ in side]
            sides += [places, [float(f"{v:.3g}") for v in values]]
        views[place] = sides
    sizes.sort()
    reach = sizes[int(0.98 * (len(sizes) - 1))] if sizes else 0.0
    return {"pieces": [*pieces.places], "tokens": views, "reach": float(f"{reach:.2g}") or 1.0}


def _kept(found: Sequence[Entry], rest: int) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Every text once with the characters that are kept of it, and where the pairs' texts lie."""
    places: dict[str, int] = {}
    kept: dict[str, int] = {}
    columns: dict[str, list[int]] = {}
    for name in ("prompt", "chosen", "rejected"):
        column = columns[name] = []
        for rank, entry in enumerate(found):
            text = getattr(entry.pair, name)
            longest = LONGEST if rank < WORST or entry.tokens else rest
            column.append(places.setdefault(text, len(places)))
            kept[text] = max(kept.get(text, 0), longest)
    return kept, columns


def _characters(found: Sequence[Entry], rest: int) -> int:
    return sum(min(len(text), longest) for text, longest in _kept(found, rest)[0].items())


def _texts(found: Sequence[Entry], rest: int) -> dict[str, Any]:
    kept, columns = _kept(found, rest)
    full = {i: len(t) for i, (t, longest) in enumerate(kept.items()) if len(t) > longest}
    return {
        "texts": [cut(t, longest) for t, longest in kept.items()],
        "full": full,
        "said": columns,
    }
