"""The notebook's pairs as one packed payload: columns of numbers, every text and token once."""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from redpencil.report.embed import LONGEST_TEXT, clean, cut, pack
from redpencil.report.entries import Entry
from redpencil.report.pairs import Key
from redpencil.report.starts import Start

if TYPE_CHECKING:
    from redpencil.notebook import PairHistory

BUDGET = 4_100_000
"""Bytes that the pairs may take in the page (packed): all numbers stay, texts are shortened."""

LONGEST = LONGEST_TEXT


@dataclass(frozen=True, slots=True)
class Room:
    """What is kept. rest: characters of a text. worst: how many of the pairs pressed hardest keep
    up to `longest` characters; those with tokens do too. views: of how many pairs, the hardest
    first, the tokens are kept."""

    rest: int
    worst: int = 300
    longest: int = LONGEST
    views: int = 300


ROOMS = (
    *map(Room, (LONGEST, 2000, 1400, 1000, 800, 650, 500, 400, 320, 250, 190, 140, 100)),
    Room(100, 250, 3000, 250),
    Room(100, 200, 2000, 200),
    Room(100, 150, 1400, 150),
    Room(100, 100, 1000, 100),
    Room(100, 100, 1000, 50),
    Room(100, 50, 1000, 25),
    Room(60, 50, 500, 12),
    Room(60, 20, 250, 6),
    Room(20, 10, 100, 3),
    Room(0, 0, 0, 0),
)
"""From all to numbers alone; the first that the budget holds is taken."""

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


def pack_entries(
    found: Sequence[Entry], starts: Mapping[Key, Start] | None = None
) -> tuple[str, Room]:
    """The payload, and what it had room for.

    starts: log-probabilities before training, where the reference's are others.
    """
    numbers = _numbers(found, starts) | _courses(found)

    @cache
    def fixed(views: int) -> tuple[dict[str, Any], int]:
        content = numbers | _tokens(found, views)
        return content, len(pack(_dump(content)))

    def fits(room: Room) -> bool:
        # Texts and numbers have little in common, so they are as large together as one by one.
        left = BUDGET - fixed(room.views)[1]
        # No text is packed smaller than to a sixth, so what is longer need not be tried.
        if _characters(found, room) > 6 * left:
            return False
        return len(pack(_dump(_texts(found, room)))) <= left

    at = 0
    if not fits(ROOMS[0]):  # every next room is smaller, so the first that fits is found by halving
        at = bisect_left(ROOMS, True, lo=1, hi=len(ROOMS) - 1, key=fits)
    room = ROOMS[at]
    return pack(_dump(fixed(room.views)[0] | _texts(found, room))), room


def _dump(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _numbers(found: Sequence[Entry], starts: Mapping[Key, Start] | None) -> dict[str, Any]:
    """Columns: a list for each number, in the order of the pairs."""
    splits, kinds, files = Table(), Table(), Table()
    columns: dict[str, list[Any]] = {
        name: [(nats if "logp" in name else digits)(getattr(e.pair, name)) for e in found]
        for name in _NUMBERS
    }
    columns["split"] = [splits.place(e.pair.split) for e in found]
    columns["pair"] = [e.pair.pair for e in found]
    columns["file"] = [files.place(cut(e.pair.file, 300)) for e in found]
    columns["kind"] = [kinds.place(e.history.kind if e.history else "") for e in found]
    columns["turns"] = [e.history.turns if e.history else None for e in found]
    columns["first"] = [digits(e.history.first_margin) if e.history else None for e in found]
    columns["probability"] = [digits(e.probability) for e in found]
    if starts is not None:
        began = [starts.get(e.pair.key, (None, None)) for e in found]
        columns["start_chosen"] = [nats(chosen) for chosen, _ in began]
        columns["start_rejected"] = [nats(rejected) for _, rejected in began]
    names = {"splits": [*splits.places], "kinds": [*kinds.places], "files": [*files.places]}
    return {"columns": columns, **names}


def digits(value: float | None) -> float | int | None:
    """Four significant digits; whole numbers stay whole."""
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None


def nats(value: float | None) -> float | None:
    """A log-probability: the page shows differences of these, so that they have two decimals
    however large they are."""
    if value is None or not math.isfinite(value):
        return None
    return round(value, 2) if abs(value) >= 100 else digits(value)


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


def _viewed(found: Sequence[Entry], views: int) -> list[int]:
    """The places of those whose tokens are kept."""
    return [place for place, entry in enumerate(found) if entry.tokens is not None][:views]


def _tokens(found: Sequence[Entry], most: int) -> dict[str, Any]:
    """Token views by the pair's place; `reach`: the log-ratio at which colours are full."""
    pieces = Table()
    views: dict[int, list[list[Any]]] = {}
    sizes: list[float] = []
    for place in _viewed(found, most):
        sides: list[list[Any]] = []
        view = found[place].tokens
        for side in (view.chosen, view.rejected) if view else ():
            values = [nats if math.isfinite(nats) else 0.0 for _, nats in side]
            sizes += [abs(v) for v in values]
            places = [pieces.place(piece) for piece, _ in side]
            sides += [places, [float(f"{v:.3g}") for v in values]]
        views[place] = sides
    sizes.sort()
    reach = sizes[int(0.98 * (len(sizes) - 1))] if sizes else 0.0
    named = [clean(piece)[:200] for piece in pieces.places]
    return {"pieces": named, "tokens": views, "reach": float(f"{reach:.2g}") or 1.0}


def _kept(found: Sequence[Entry], room: Room) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Every text once with the characters that are kept of it, and where the pairs' texts lie."""
    places: dict[str, int] = {}
    kept: dict[str, int] = {}
    columns: dict[str, list[int]] = {}
    long = {*range(room.worst), *_viewed(found, room.views)}
    for name in ("prompt", "chosen", "rejected"):
        column = columns[name] = []
        for rank, entry in enumerate(found):
            text = getattr(entry.pair, name)
            longest = room.longest if rank in long else room.rest
            column.append(places.setdefault(text, len(places)))
            kept[text] = max(kept.get(text, 0), longest)
    return kept, columns


def _characters(found: Sequence[Entry], room: Room) -> int:
    return sum(min(len(text), longest) for text, longest in _kept(found, room)[0].items())


def _texts(found: Sequence[Entry], room: Room) -> dict[str, Any]:
    kept, columns = _kept(found, room)
    full = {i: len(t) for i, (t, longest) in enumerate(kept.items()) if len(t) > longest}
    return {
        "texts": [cut(t, longest) for t, longest in kept.items()],
        "full": full,
        "said": columns,
    }
