"""What became of each pair: from its measurements over training to one word.

A pair is *looked at* where its margin was measured after the first update and is not a tie. Before
the first update nothing has been learned: an implicit margin is 0 whatever the pair, for the policy
still is its reference, and a reward model's head is random. A policy that does not begin as its
reference, a head that was loaded, and an objective whose rewards know no reference, have an opinion
then, and it is a look, too. A margin within the rounding of log-probabilities is written as 0, a
tie. The first look is the start, the last measurement is now:

    right now,   wrong at the start                corrected
    wrong now,   right at the start                broken
    wrong now,   and at every look before          stubborn
    right now,   and at the start                  right
    none of these                                  undecided

Undecided is a tie now, a pair never looked at, and one that was wrong, then right, then wrong
again.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from redpencil.notebook.parts import Rows, read_parts
from redpencil.notebook.schema import LENGTHS, NUMBERS, SPLITS

Kind = Literal["corrected", "broken", "stubborn", "right", "undecided"]
KINDS: tuple[Kind, ...] = ("corrected", "broken", "stubborn", "right", "undecided")

FIRST_STEP = {"eval": 1, "train": 2}
"""The first step whose measurement is of a changed model: an evaluation is made after its step, a
training pair is measured before the update of its step. Where the model had an opinion before, one
step earlier counts, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairHistory:
    """One comparison over training. first: its first look (the first measurement where it has
    none); last: its last measurement. turns: how often right and wrong changed between looks.
    margins: all its measurements. The other numbers are the last measurement's; log-probabilities
    are None for a reward model. looks: how many looks it had."""

    split: str
    pair: int
    file: str
    row: int
    kind: Kind
    first_step: int
    last_step: int
    first_margin: float
    last_margin: float
    turns: int
    looks: int
    margins: tuple[tuple[int, float], ...]
    reward_chosen: float | None
    reward_rejected: float | None
    weight: float | None
    logp_chosen: float | None
    logp_rejected: float | None
    ref_logp_chosen: float | None
    ref_logp_rejected: float | None
    length_chosen: int
    length_rejected: int


class Histories(Sequence[PairHistory]):
    """The histories of a split's pairs, by pair. Each is made when it is asked for; what concerns
    all of them at once is in arrays over the pairs."""

    def __init__(self, split: str, rows: Rows) -> None:
        self.split = split
        self.rows = rows
        self._starts = np.flatnonzero(np.r_[True, rows.pair[1:] != rows.pair[:-1]])
        self._ends = np.r_[self._starts[1:], len(rows)]
        margin = rows.numbers["margin"]
        looks = (rows.step >= FIRST_STEP[split] - rows.judges_at_start) & ~_ties(rows)
        places = np.arange(len(rows))
        self._first = np.minimum.reduceat(np.where(looks, places, len(rows)), self._starts)
        self._first = np.where(self._first < self._ends, self._first, self._starts)
        self.looks = np.add.reduceat(looks.astype(np.int64), self._starts)
        """How many looks each pair had."""
        self.codes = self._classified(margin, looks)
        """Each pair's kind, as an index into `KINDS`."""
        self.turns = self._turns(margin, looks)
        """How often each pair changed between right and wrong."""

    def _classified(self, margin: np.ndarray, looks: np.ndarray) -> np.ndarray:
        last = self._ends - 1
        right_now, right_first = margin[last] > 0, margin[self._first] > 0
        ever_right = np.logical_or.reduceat(looks & (margin > 0), self._starts)
        holds: dict[Kind, np.ndarray] = {
            "corrected": right_now & ~right_first,
            "broken": ~right_now & right_first,
            "stubborn": ~right_now & ~ever_right,
            "right": right_now & right_first,
        }
        codes = np.full(len(last), KINDS.index("undecided"))
        for kind, which in holds.items():
            codes[which & looks[last]] = KINDS.index(kind)
        return codes

    def _turns(self, margin: np.ndarray, looks: np.ndarray) -> np.ndarray:
        right, pair = (
            margin[looks] > 0,
            np.repeat(np.arange(len(self._starts)), self._ends - self._starts)[looks],
        )
        turned = (right[1:] != right[:-1]) & (pair[1:] == pair[:-1])
        return np.bincount(pair[1:][turned], minlength=len(self._starts))

    @property
    def counts(self) -> dict[Kind, int]:
        """How many pairs there are of each kind."""
        counted = np.bincount(self.codes, minlength=len(KINDS)).tolist()
        return dict(zip(KINDS, counted, strict=True))

    @cached_property
    def pairs(self) -> np.ndarray:
        """Each pair's number."""
        return self.rows.pair[self._starts]

    def of_pair(self, number: int) -> PairHistory | None:
        """The pair of this number; None where it was not measured."""
        at = bisect_left(self.pairs, number)
        return self[at] if at < len(self) and self.pairs[at] == number else None

    def by_row(self, histories: Sequence[PairHistory]) -> dict[tuple[str, int], list[int]]:
        """The rows of these, as file and row, with the numbers of all pairs that come from each."""
        code = {file: at for at, file in enumerate(self.rows.files)}
        last = self._ends - 1
        places = self.rows.file[last].astype(np.int64) << 32 | self.rows.row[last]
        wanted = np.array([code[h.file] << 32 | h.row for h in histories], dtype=np.int64)
        found: dict[tuple[str, int], list[int]] = {}
        for at in np.flatnonzero(np.isin(places, wanted)).tolist():
            place = (self.rows.files[self.rows.file[last[at]]], int(self.rows.row[last[at]]))
            found.setdefault(place, []).append(int(self.pairs[at]))
        return found

    def last(self, name: str) -> np.ndarray:
        """Each pair's last value of a column."""
        return self.rows.numbers[name][self._ends - 1]

    def of_kind(self, *kinds: Kind, top: int | None = None) -> list[PairHistory]:
        """The pairs of these kinds, or the first `top` of them: those pressed hardest first (the
        right ones: most right first; equal ones by number)."""
        wanted = np.flatnonzero(np.isin(self.codes, [KINDS.index(kind) for kind in kinds]))
        margin = self.last("margin")[wanted]
        if set(kinds) <= {"right", "corrected"}:
            margin = -margin
        return [self[int(at)] for at in wanted[np.argsort(margin, kind="stable")][:top]]

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> PairHistory: ...
    @overload
    def __getitem__(self, index: slice) -> list[PairHistory]: ...
    def __getitem__(self, index: int | slice) -> PairHistory | list[PairHistory]:
        if isinstance(index, slice):
            return [self._made(at) for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._made(index % len(self))

    def __iter__(self) -> Iterator[PairHistory]:
        return map(self._made, range(len(self)))

    def _made(self, at: int) -> PairHistory:
        rows, begin, end, first = self.rows, self._starts[at], self._ends[at], self._first[at]
        margin = rows.numbers["margin"]
        steps, margins = rows.step[begin:end].tolist(), margin[begin:end].tolist()
        last = {name: values[end - 1].item() for name, values in rows.numbers.items()}
        numbers: dict[str, Any] = {name: last[name] for name in LENGTHS}
        for name in NUMBERS:
            if name != "margin":
                numbers[name] = None if np.isnan(last[name]) else last[name]
        return PairHistory(
            split=self.split,
            pair=int(rows.pair[begin]),
            file=rows.files[rows.file[end - 1]],
            row=int(rows.row[end - 1]),
            kind=KINDS[self.codes[at]],
            first_step=int(rows.step[first]),
            last_step=steps[-1],
            first_margin=float(margin[first]),
            last_margin=margins[-1],
            turns=int(self.turns[at]),
            looks=int(self.looks[at]),
            margins=tuple(zip(steps, margins, strict=True)),
            **numbers,
        )


def _ties(rows: Rows) -> np.ndarray:
    """(R,) whether a margin is 0, as whoever wrote it made it within rounding, or not known."""
    margin = rows.numbers["margin"]
    return (margin == 0) | np.isnan(margin)


@dataclass(frozen=True, slots=True, eq=False)
class Notebook:
    """The wrong-answer notebook of a run. damaged: what could not be read, in words."""

    sides: Mapping[str, Histories]
    damaged: tuple[str, ...] = ()

    def pairs(self, split: str) -> Sequence[PairHistory]:
        """The histories of "eval" or "train"; empty where nothing was measured."""
        return self.sides.get(split, ())


def read_notebook(
    run_folder: Path, *, splits: Sequence[str] = SPLITS, pairs: np.ndarray | None = None
) -> Notebook | None:
    """The notebook of a run, finished or not; None where it keeps none (SFT, RL, older runs).

    splits, pairs: what is wanted of it, where all of it would be too much: of these splits the
    pairs with these numbers. Parts that are damaged are left out and named in `Notebook.damaged`.
    """
    read = read_parts(run_folder, splits, pairs)
    if read is None:
        return None
    sides, damaged = read
    return Notebook({name: Histories(name, rows) for name, rows in sides.items()}, damaged)
