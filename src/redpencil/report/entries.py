"""Which pairs the page's notebook holds, and all that is known of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redpencil.report.pairs import Pair
from redpencil.report.rows import Row, number, text, whole
from redpencil.report.rundata import RunData

if TYPE_CHECKING:
    from redpencil.notebook import PairHistory, TokenView

MOST_PAIRS = 20_000
"""Pairs that a page holds; of more, those pressed hardest."""
MOST_SUSPECTS = 1_000

DATA = "data"
"""The split of a suspect row that is no pair of the notebook."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """probability: that the label is right, where it is suspect."""

    pair: Pair
    history: "PairHistory | None" = None
    tokens: "TokenView | None" = None
    probability: float | None = None


def entries(run: RunData) -> list[Entry]:
    """Those of the notebook, pressed hardest first, then suspect rows that are not among them."""
    doubts = {_place(row): number(row, "probability") for row in run.suspects[:MOST_SUSPECTS]}
    known = sorted((*run.after, *run.trained), key=lambda p: -(p.weight or 0.0))[:MOST_PAIRS]
    made = [
        Entry(
            pair=p,
            history=run.histories.get(p.key),
            tokens=run.tokens.get(p.key),
            probability=doubts.pop((p.file, p.row, p.chosen.strip(), p.rejected.strip()), None),
        )
        for p in known
    ]
    for i, row in enumerate(run.suspects[:MOST_SUSPECTS]):
        if _place(row) in doubts:
            made.append(Entry(pair=_bare(row, i), probability=doubts[_place(row)]))
    return made


def _place(row: Row) -> tuple[str, int | None, str, str]:
    texts = (text(row.get(name)) for name in ("file", "chosen", "rejected"))
    file, chosen, rejected = texts
    return file, whole(row, "row"), chosen.strip(), rejected.strip()


def _bare(row: Row, place: int) -> Pair:
    names = ("prompt", "chosen", "rejected", "file")
    texts: dict[str, Any] = {name: text(row.get(name)) for name in names}
    return Pair(**texts, row=whole(row, "row"), split=DATA, pair=place)


def wrong_first(pairs: Sequence[Pair]) -> list[Pair]:
    """Those ordered wrongly or not at all, pressed hardest first."""
    wrong = (p for p in pairs if p.correct is not None and p.correct < 1)
    return sorted(wrong, key=lambda p: -(p.weight or 0.0))
