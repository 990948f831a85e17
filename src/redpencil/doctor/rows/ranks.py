"""Several responses to one prompt: ties among them, and the same text more than once."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from redpencil.data.reading import ReadRow
from redpencil.doctor.findings import Finding
from redpencil.doctor.tally import Kind, Tally, excerpt, rows_of

TIES = Kind(
    key="ties",
    group="preference",
    severity="note",
    title="Ties among responses",
    why="Between responses with equal scores or ranks there is no comparison to learn from.",
    advice="Nothing must be done; a finer scale would give more comparisons.",
)
SAME = Kind(
    key="identical-responses",
    group="preference",
    severity="warning",
    title="The same response more than once in a row",
    why="Two models said the same, or both answers are a stand-in; comparisons with it count "
    "double, and between its copies there is none.",
    advice="Leave the copies out.",
)
UNEVEN = Kind(
    key="identical-scored-differently",
    group="preference",
    severity="warning",
    title="The same response with different scores",
    why="One text cannot be better than itself: the scores are at least that inexact.",
    advice="Score these responses anew, or take the mean of their scores.",
)


class RankCheck:
    """Looks at rows with several judged responses. Memory does not grow with the rows."""

    def __init__(self, by: str) -> None:
        self._by = by
        self._ties = Tally()
        self._pairs = [0, 0]
        self._all_at: Counter[float] = Counter()
        self._same = Tally()
        self._uneven = Tally()

    def see_row(self, read: ReadRow) -> None:
        if read.row is None or (read.problem and read.problem.malformed):
            return
        responses = [_plain(r) for r in _listed(read.row.get("responses"))]
        values = [] if self._by == "comparisons" else _numbers(read.row.get(self._by))
        judged = [v for v in values if v is not None]
        distinct = len(set(judged))
        if distinct == 1 and len(judged) > 1:
            self._all_at[judged[0]] += 1
        if distinct < len(judged):
            counts = Counter(judged)
            all_pairs = len(judged) * (len(judged) - 1) // 2
            tied = sum(n * (n - 1) // 2 for n in counts.values())
            self._pairs = [self._pairs[0] + tied, self._pairs[1] + all_pairs]
            (most, times), *_ = counts.most_common(1)
            name = "score" if self._by == "scores" else "rank"
            said = f"{times} of {len(judged)} responses have {name} {most:g}"
            self._ties.add(read.origin, said)
        self._see_copies(read, responses, values)

    def _see_copies(self, read: ReadRow, responses: list[str], values: list[Any]) -> None:
        places: dict[str, list[int]] = defaultdict(list)
        for i, text in enumerate(responses):
            if text.strip():
                places[text].append(i)
        copies = {text: at for text, at in places.items() if len(at) > 1}
        if not copies:
            return
        text, at = next(iter(copies.items()))
        self._same.add(read.origin, f"{len(at)} times: {excerpt(text)}")
        for text, at in copies.items():
            scores = {values[i] for i in at if i < len(values) and values[i] is not None}
            if len(scores) > 1:
                listed = " and ".join(map(str, sorted(scores)[:4]))
                self._uneven.add(read.origin, f"{listed}: {excerpt(text)}")
                return

    def findings(self, total: int) -> Iterable[Finding]:
        if self._ties.count:
            tied, pairs = self._pairs
            said = (
                f"{rows_of(self._ties.count, total)} have responses that are tied: "
                f"{tied:,} of their {pairs:,} pairs.{self._wholly_tied()}"
            )
            yield TIES.finding(self._ties, total, said)
        if self._same.count:
            said = f"{rows_of(self._same.count, total)} have a response more than once."
            yield SAME.finding(self._same, total, said)
        if self._uneven.count:
            said = f"{rows_of(self._uneven.count, total)} score one text in two ways."
            yield UNEVEN.finding(self._uneven, total, said)

    def _wholly_tied(self) -> str:
        if not self._all_at:
            return ""
        name = "score" if self._by == "scores" else "rank"
        listed = ", ".join(f"{n:,} at {name} {value:g}" for value, n in self._all_at.most_common(4))
        return f" In {self._all_at.total():,} rows all are: {listed}."


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _numbers(value: Any) -> list[float | None]:
    """None for what was not judged; an empty list where a value is no number.

    A row may be set aside before its scores were looked at."""
    numbers: list[float | None] = []
    for item in _listed(value):
        if not isinstance(item, int | float | None):
            return []
        try:
            number = None if item is None else float(item)
        except OverflowError:
            return []
        numbers.append(number if number is not None and math.isfinite(number) else None)
    return numbers


def _plain(response: Any) -> str:
    """A response as text that is equal for equal responses."""
    return response if isinstance(response, str) else repr(response)
