"""Lengths, and whether length alone says which response was chosen."""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from redpencil.doctor.findings import SHOWN_ROWS, Finding
from redpencil.doctor.numbers.logistic import FOLD_BITS, FOLDS
from redpencil.doctor.view import View
from redpencil.intervals import wilson_interval
from redpencil.types import Origin

BINS = (0.1, 0.3, 0.7, 1.4)
"""Borders of |log(length chosen / length rejected)|: 10 %, 35 %, twice, four times as long."""

CLEARLY = 0.55
"""A shortcut is told where the whole interval of its accuracy lies above this."""
STRONG = 0.65
"""And is a warning where the whole interval lies above this."""


HUGE, FARTHER = 100_000, 100
"""A text of more characters than this, and this many times the 95th percentile, is an accident."""


class Distribution:
    """Median, 95th percentile and largest of many whole numbers.

    Memory: one entry for each different number, whatever their count.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, value: int) -> None:
        self._counts[value] += 1

    def quantile(self, share: float) -> int:
        """The smallest number that this share of them do not exceed."""
        wanted, below = share * self._counts.total(), 0
        for value in sorted(self._counts):
            below += self._counts[value]
            if below >= wanted:
                return value
        raise AssertionError("a quantile of no numbers")

    @property
    def count(self) -> int:
        return self._counts.total()

    def above(self, limit: int) -> int:
        """How many are larger."""
        return sum(count for value, count in self._counts.items() if value > limit)

    def as_json(self) -> dict[str, int]:
        """{"median", "p95", "max"}; nothing if there are no numbers."""
        if not self._counts:
            return {}
        return {
            "median": self.quantile(0.5),
            "p95": self.quantile(0.95),
            "max": max(self._counts),
        }


class LengthRule:
    """How well length alone orders the pairs, by rules learned on other prompts.

    For each of five ranges of the ratio of lengths the rule is "the longer one" or "the shorter
    one", whichever was right more often in the other folds. A row counts once, shared among its
    comparisons; equal lengths are undecided: one half. Folds are by prompt.

    Memory: a table of FOLDS x 5 x 2 numbers.
    """

    def __init__(self) -> None:
        # How much weight, by fold and range: the chosen one is longer, shorter.
        self._won = np.zeros((FOLDS, len(BINS) + 1, 2))
        self._equal = 0.0
        self._rows = 0

    def see(self, prompt_hash: int, lengths: Iterable[tuple[int, int]]) -> None:
        """Lengths (chosen, rejected) of the comparisons of one row."""
        pairs = list(lengths)
        if not pairs:
            return
        self._rows += 1
        share = 1 / len(pairs)
        fold = (prompt_hash & FOLD_BITS) % FOLDS
        for chosen, rejected in pairs:
            if chosen == rejected:
                self._equal += share
                continue
            ratio = abs(math.log(max(chosen, 1) / max(rejected, 1)))
            place = sum(ratio >= border for border in BINS)
            self._won[fold, place, int(chosen < rejected)] += share

    def longer(self) -> tuple[float, tuple[float, float], int]:
        """How often the chosen one is the longer one (a half where they are equal): share, 95 %
        interval, rows."""
        if not self._rows:
            return 0.5, (0.0, 1.0), 0
        share = (self._won[:, :, 0].sum() + self._equal / 2) / self._rows
        return self._told(share)

    def accuracy(self) -> tuple[float, tuple[float, float], int]:
        """Of the rule on prompts that it was not learned from: share, 95 % interval, rows."""
        if not self._rows:
            return 0.5, (0.0, 1.0), 0
        right = self._equal / 2
        for fold in range(FOLDS):
            others = self._won.sum(axis=0) - self._won[fold]
            longer, shorter = self._won[fold].T
            rule = np.sign(others[:, 0] - others[:, 1])
            right += np.where(
                rule > 0, longer, np.where(rule < 0, shorter, (longer + shorter) / 2)
            ).sum()
        return self._told(right / self._rows)

    def _told(self, share: float) -> tuple[float, tuple[float, float], int]:
        share = min(1.0, max(0.0, float(share)))
        low, high = wilson_interval(share, self._rows)
        return share, (low, high), self._rows


class Lengths:
    """Characters of prompts and responses, and whether length tells the chosen response.

    Of rows of token ids, whose texts have a character for each id, tokens.
    """

    def __init__(self) -> None:
        self.prompt = Distribution()
        self.chosen = Distribution()
        self.rejected = Distribution()
        self.response = Distribution()
        self.rule = LengthRule()
        self._unit = "characters"
        self._huge: list[tuple[int, int, str, Origin]] = []
        self._seen_huge = 0

    def see(self, row: View) -> None:
        self._unit = "characters" if row.is_text else "tokens"
        self.prompt.add(len(row.prompt))
        lengths = [len(r) for r in row.responses]
        self._remember_huge(row.origin, len(row.prompt), max(lengths, default=0))
        for length in lengths:
            self.response.add(length)
        for index in {c for c, _ in row.pairs}:
            self.chosen.add(lengths[index])
        for index in {r for _, r in row.pairs}:
            self.rejected.add(lengths[index])
        self.rule.see(row.prompt_hash, ((lengths[c], lengths[r]) for c, r in row.pairs))

    def statistics(self) -> Mapping[str, Any]:
        said: dict[str, Any] = {
            f"prompt_{self._unit}": self.prompt.as_json(),
            f"response_{self._unit}": self.response.as_json(),
        }
        longer, interval, rows = self.rule.longer()
        if rows:
            accuracy, interval_of_rule, _ = self.rule.accuracy()
            said |= {
                f"chosen_{self._unit}": self.chosen.as_json(),
                f"rejected_{self._unit}": self.rejected.as_json(),
                "chosen_is_longer": share_as_json(longer, interval, rows),
                "length_accuracy": share_as_json(accuracy, interval_of_rule, rows),
            }
        return said

    def _remember_huge(self, origin: Origin, prompt: int, response: int) -> None:
        """The longest of all, as many as a finding lists."""
        for side, length in (("prompt", prompt), ("response", response)):
            if length > HUGE:
                self._seen_huge += 1
                heapq.heappush(self._huge, (length, -self._seen_huge, side, origin))
                if len(self._huge) > SHOWN_ROWS:
                    heapq.heappop(self._huge)

    def _far_out(self) -> Iterable[Finding]:
        """Texts of another order of magnitude: a file inside a cell, a quote that never ends."""
        sides = {"prompt": self.prompt, "response": self.response}
        borders = {
            side: max(HUGE, FARTHER * lengths.quantile(0.95))
            for side, lengths in sides.items()
            if lengths.count
        }
        far = sorted((h for h in self._huge if h[0] > borders[h[2]]), reverse=True)
        if not far:
            return
        length, _, side, origin = far[0]
        count = sum(sides[name].above(border) for name, border in borders.items())
        usual = sides[side].quantile(0.95)
        yield Finding(
            key="huge-text",
            group="statistics",
            severity="warning",
            title="Texts far longer than all others",
            text=f"{count:,} text{'s are' if count != 1 else ' is'} more than {FARTHER} times as "
            f"long as 95 % of them; the longest, the {side} of row {origin.row}, has {length:,} "
            f"{self._unit}, where 95 % have at most {usual:,}.",
            count=count,
            of=self.prompt.count + self.response.count,
            rows=tuple(dict.fromkeys(h[3] for h in far)),
            why="Mostly a whole file in one cell, or a quotation mark that was never closed; it "
            "takes memory and time, and training shortens it or sets it aside.",
            advice="Look at these rows where the file was made, and leave them out.",
        )

    def findings(self, total: int) -> Iterable[Finding]:
        yield from self._far_out()
        accuracy, (low, high), rows = self.rule.accuracy()
        if low <= CLEARLY:
            return
        longer, (longer_low, longer_high), _ = self.rule.longer()
        wins, other = ("longer", "shorter") if longer > 0.5 else ("shorter", "longer")
        share, least, most = longer, longer_low, longer_high
        if wins == "shorter":
            share, least, most = 1 - longer, 1 - longer_high, 1 - longer_low
        yield Finding(
            key="length-bias",
            group="statistics",
            severity="warning" if low > STRONG else "note",
            title="Length tells which response was chosen",
            text=f"The chosen response is the {wins} one in {share:.1%} of the pairs of "
            f"{rows:,} rows ({least:.1%} to {most:.1%}); length alone orders {accuracy:.1%} right, "
            f"by prompts that it was not fitted to ({low:.1%} to {high:.1%}; chance is 50 %).",
            count=round(accuracy * rows),
            of=rows,
            why=f"The model can lower its loss by writing {wins} answers, and an accuracy near "
            f"{accuracy:.0%} would show no more than that.",
            advice="Hold accuracies against this number; --loss ipo averages over a response's "
            "tokens, so that length counts less; `redpencil judge` says who wins at equal "
            f"lengths; pairs whose chosen response is the {other} one would balance the data.",
        )


def share_as_json(share: float, interval: tuple[float, float], rows: int) -> dict[str, Any]:
    return {"share": share, "interval": list(interval), "rows": rows}
