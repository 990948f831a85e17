"""Rows that say again, or deny, what other rows say: duplicates, both ways, circles.

In memory: 28 bytes a row and 28 bytes a comparison, and as many again while they are sorted.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from redpencil.data.reading import ReadRow
from redpencil.doctor.findings import SHOWN_ROWS, Finding
from redpencil.doctor.rows.circles import edges_on_circles
from redpencil.doctor.rows.keys import Places, key_of, key_of_all, mixed, prompt_of
from redpencil.doctor.tally import Kind, Tally, both, rows_of
from redpencil.types import Origin, Record

DUPLICATE = Kind(
    key="duplicate",
    group="preference",
    severity="warning",
    title="Rows that occur more than once",
    why="A repeated row counts double, in training and in what is measured.",
    advice="--fix OUT.jsonl keeps the first of each.",
)
BOTH_WAYS = Kind(
    key="both-ways",
    group="preference",
    severity="error",
    title="The same comparison labelled both ways",
    why="One row undoes what the other teaches, and at least one of them is wrong.",
    advice="Decide which is right; --fix OUT.jsonl drops both sides. If people disagreed, keep one "
    "of them with a probability.",
)
CIRCLE = Kind(
    key="cycle",
    group="preference",
    severity="warning",
    title="Comparisons that go round in a circle",
    why="A beats B, B beats C, C beats A: no reward can say so, so at least one of them is wrong.",
    advice="Judge these answers to one prompt anew, all at once.",
)


@dataclass(frozen=True, slots=True)
class Repeated:
    """Indices into `Places`. duplicates: (this row, the first of its kind). both_ways: groups of
    rows on one comparison that contradict each other, each with the first of the other opinion."""

    duplicates: list[tuple[int, int]]
    both_ways: list[dict[int, int]]


class Repeats:
    """Remembers every row by its hashes; what they add up to is worked out at the end."""

    def __init__(self, *, listed: bool = False) -> None:
        """listed: rows list their own comparisons, so that one row may contradict itself."""
        self._listed = listed
        self.places = Places()
        self._rows = array("Q")
        self._prompts = array("Q")
        self._winners = array("Q")
        self._losers = array("Q")
        self._owners = array("I")
        self._labelled = False

    def see_row(self, read: ReadRow) -> None:
        if read.record is None:
            return
        owner = self.places.add(read)
        prompt = prompt_of(read.record)
        answers = [key_of(response) for response in read.record.responses]
        if read.label is not None:
            self._labelled = True
            # A true answer beats nobody in particular, and a false one loses against nobody.
            pairs = [(answers[0], 0) if read.label else (0, answers[0])]
        else:
            pairs = [(answers[i], answers[j]) for i, j in _directed(read.record)]
        self._rows.append(key_of_all([prompt, *answers, *(k for pair in pairs for k in pair)]))
        for winner, loser in pairs:
            self._prompts.append(prompt)
            self._winners.append(winner)
            self._losers.append(loser)
            self._owners.append(owner)

    def repeated(self) -> Repeated:
        return Repeated(self._duplicates(), list(self._both_ways()))

    def findings(self, total: int) -> Iterable[Finding]:
        found = self.repeated()
        if found.duplicates:
            tally = Tally(len(found.duplicates), self._origins([i for i, _ in found.duplicates]))
            later, first = both(*(self.places.origin(i) for i in found.duplicates[0]))
            said = f"{rows_of(tally.count, total)} repeat an earlier row to the letter."
            yield DUPLICATE.finding(tally, total, said, example=f"{later} is {first} again")
        if found.both_ways:
            rows = sorted({i for group in found.both_ways for i in group})
            tally = Tally(len(rows), self._origins(rows))
            said = (
                f"{rows_of(tally.count, total)} contradict each other in "
                f"{len(found.both_ways):,} comparison{'s' * (len(found.both_ways) > 1)}."
            )
            pair = next(iter(found.both_ways[0].items()))
            named = " and ".join(both(*(self.places.origin(i) for i in pair)))
            yield BOTH_WAYS.finding(tally, total, said, example=named)
        if circles := [] if self._labelled else list(self._circles()):
            rows = sorted({i for circle in circles for i in circle})
            tally = Tally(len(rows), self._origins(rows))
            said = (
                f"{rows_of(tally.count, total)} go round in a circle, of {len(circles):,} "
                f"prompt{'s' * (len(circles) > 1)}."
            )
            named = ", ".join(f"row {o.row}" for o in self._origins(circles[0][:5]))
            yield CIRCLE.finding(tally, total, said, example=named)

    def _origins(self, rows: Sequence[int]) -> list[Origin]:
        return [self.places.origin(i) for i in rows[:SHOWN_ROWS]]

    def _duplicates(self) -> list[tuple[int, int]]:
        rows = np.array(self._rows, dtype=np.uint64)
        order = np.argsort(rows, kind="stable")
        again = np.zeros(len(rows), dtype=bool)
        again[1:] = rows[order][1:] == rows[order][:-1]
        first = np.maximum.accumulate(np.where(again, 0, np.arange(len(rows))))
        pairs = zip(order[again].tolist(), order[first[again]].tolist(), strict=True)
        return sorted(pairs)

    def _both_ways(self) -> Iterator[dict[int, int]]:
        winners = np.array(self._winners, dtype=np.uint64)
        losers = np.array(self._losers, dtype=np.uint64)
        low, high = np.minimum(winners, losers), np.maximum(winners, losers)
        pair = mixed(np.array(self._prompts, dtype=np.uint64), low, high)
        order = np.argsort(pair, kind="stable")
        upward = (winners < losers)[order]
        for begin, end in _runs(pair[order]):
            if upward[begin:end].any() and not upward[begin:end].all():
                rows = [self._owners[i] for i in order[begin:end].tolist()]
                says = upward[begin:end].tolist()
                first = {opinion: rows[says.index(opinion)] for opinion in (True, False)}
                yield {row: first[not up] for row, up in zip(rows, says, strict=True)}

    def _circles(self) -> Iterator[list[int]]:
        """The rows of each prompt whose comparisons go round, 2-circles (both ways) apart."""
        prompts = np.array(self._prompts, dtype=np.uint64)
        order = np.argsort(prompts, kind="stable")
        owners = np.array(self._owners, dtype=np.uint32)[order]
        for begin, end in _runs(prompts[order], at_least=3):
            if owners[begin] == owners[end - 1] and not self._listed:
                continue  # scores and rankings of one row are an order
            members = order[begin:end].tolist()
            edges = {(self._winners[i], self._losers[i]) for i in members}
            edges = {edge for edge in edges if edge[::-1] not in edges}
            if len(edges) >= 3 and (round_ := edges_on_circles(edges)):
                on = (i for i in members if (self._winners[i], self._losers[i]) in round_)
                yield sorted({self._owners[i] for i in on})


def _directed(record: Record) -> Iterator[tuple[int, int]]:
    """(winner, loser); a probability below one half turns a comparison round."""
    for c in record.comparisons:
        if c.probability > 0.5:
            yield c.chosen, c.rejected
        elif c.probability < 0.5:
            yield c.rejected, c.chosen


def _runs(values: np.ndarray, at_least: int = 2) -> Iterator[tuple[int, int]]:
    """[begin, end) of the runs of equal values, of sorted ones, that are so long."""
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1 if len(values) else np.zeros(0, int)
    begins, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(values)]])
    long = ends - begins >= at_least
    yield from zip(begins[long].tolist(), ends[long].tolist(), strict=True)
