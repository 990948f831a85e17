"""Do a few words say which response was chosen? Told where they do, with the words and counts."""

from collections.abc import Iterable, Mapping
from typing import Any

from redpencil.doctor.findings import Finding
from redpencil.doctor.numbers.sample import PairSample
from redpencil.doctor.numbers.words import Word, Words, bag_of_words
from redpencil.doctor.tally import readable
from redpencil.doctor.view import View

CLEARLY = 0.6
"""Told where the whole interval of the held-out accuracy lies above this,"""
NEARLY_ALL = 0.9
"""and a warning above this: almost every pair can be ordered without reading it."""


class WordShortcut:
    """The bag of words (words.py) on a bounded sample of the rows."""

    def __init__(self, sample: PairSample | None = None) -> None:
        self._sample = sample or PairSample()
        self._fitted: Words | None = None
        self._done = False

    def see(self, row: View) -> None:
        self._sample.see(row)

    def _words(self) -> Words | None:
        if not self._done:
            self._fitted, self._done = bag_of_words(self._sample.sampled()), True
        return self._fitted

    def statistics(self) -> Mapping[str, Any]:
        words = self._words()
        if words is None:
            return {}
        return {
            "words_accuracy": {
                "share": words.accuracy,
                "interval": list(words.interval),
                "rows": words.rows,
                "sampled": not self._sample.complete,
                "preferred": [_as_json(w) for w in words.preferred],
                "avoided": [_as_json(w) for w in words.avoided],
            }
        }

    def findings(self, total: int) -> Iterable[Finding]:
        words = self._words()
        if words is None or words.interval[0] <= CLEARLY:
            return
        low, high = words.interval
        sampled = "" if self._sample.complete else "sampled "
        yield Finding(
            key="word-shortcut",
            group="statistics",
            severity="warning" if low > NEARLY_ALL else "note",
            title="Single words tell which response was chosen",
            text=f"A bag of words orders {words.accuracy:.1%} of the pairs of {words.rows:,} "
            f"{sampled}rows right, by prompts that it was not fitted to ({low:.1%} to {high:.1%}; "
            "chance is 50 %).",
            count=round(words.accuracy * words.rows),
            of=words.rows,
            example=_told(words),
            why="The model may learn these words instead of what makes an answer better, and an "
            "accuracy of this height would show no more than that.",
            advice="Read the words: if they are what you mean (a tone, a topic), all is well; if "
            "they come from how the pairs were made (two models, two templates), make the pairs "
            "so that both sides come from one place.",
        )


def _as_json(word: Word) -> dict[str, Any]:
    return {"feature": word.text, "chosen": word.chosen, "rejected": word.rejected}


def _told(words: Words) -> str:
    """`chosen: "thanks" (40 : 3), ...; rejected: "sorry" (1 : 25), ...`"""

    def listed(side: str, found: Iterable[Word]) -> str:
        named = ", ".join(f"“{readable(w.text)}” ({w.chosen} : {w.rejected})" for w in found)
        return f"{side}: {named}" if named else ""

    both = (listed("in the chosen", words.preferred), listed("in the rejected", words.avoided))
    return "; ".join(side for side in both if side)
