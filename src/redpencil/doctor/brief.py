"""The brief at the head of a training run: what can be seen of the data without reading it twice.

The records go by on their way to the tokenizer. A few checks that cost microseconds a row look at
them; what they find is said in a few lines and written into the run's folder. A brief never stops
a run: if a check fails, that is said and the run goes on.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from redpencil.console import say, warn
from redpencil.data.parts import Problem
from redpencil.data.prompts import Prompt, PromptSet
from redpencil.data.reading import ReadRow
from redpencil.data.sources import RawRow
from redpencil.doctor.findings import SEVERITIES, Diagnosis, Finding
from redpencil.doctor.numbers.balance import Prompts
from redpencil.doctor.numbers.lengths import Lengths
from redpencil.doctor.numbers.overlap import PromptOverlap
from redpencil.doctor.numbers.sample import PairSample
from redpencil.doctor.numbers.shortcuts import WordShortcut
from redpencil.doctor.numbers.statistics import Statistics
from redpencil.doctor.reasons import Problems
from redpencil.doctor.rows.repeats import Repeats
from redpencil.doctor.view import View, as_text, hash_of
from redpencil.errors import in_words
from redpencil.types import Dropped, Origin, Record

SAMPLED_PAIRS, SAMPLED_CHARACTERS = 1_000, 1_000_000
"""For the bag of words: a second at most."""
PROMPTS = "prompts"
SHOWN = 5
"""Findings that are said; the file has all."""


class Brief:
    """Looks at the records of a run as they pass."""

    def __init__(self) -> None:
        self._repeats = Repeats()
        sample = PairSample(SAMPLED_PAIRS, SAMPLED_CHARACTERS)
        self._texts = Statistics([Lengths(), WordShortcut(sample), Prompts()])
        self._records = 0
        self._kept = 0
        self._several: dict[Origin, tuple[Origin, ...]] = {}
        self._failed = False

    def watch(self, records: Iterable[tuple[Record, tuple[Origin, ...]]]) -> Iterator[Record]:
        """The records, one by one, looked at."""
        for record, origins in records:
            self._kept += len(origins)
            if len(origins) > 1:
                self._several[record.origin] = origins
            if not self._failed:
                self._see(record, origins)
            yield record

    def _see(self, record: Record, origins: tuple[Origin, ...]) -> None:
        try:
            read = ReadRow(self._records, RawRow(record.origin, {}), None, record, None, None)
            self._repeats.see_row(read)
            self._texts.see(record, origins)
            self._records += 1
        except Exception as error:  # whatever it is, the run matters more
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._failed = True
        warn(f"the brief look at the data failed ({in_words(error)}); the run goes on without it")

    def rows_of(self, dropped: Iterable[Dropped]) -> list[Dropped]:
        """One for each row that a record of these was made of: labelled rows are joined."""
        return [
            replace(row, origin=origin)
            for row in dropped
            for origin in self._several.get(row.origin, (row.origin,))
        ]

    def diagnosis(
        self,
        source: str,
        shape: str,
        rows_read: int,
        unusable: Sequence[Dropped],
        untaken: Sequence[Dropped],
    ) -> Diagnosis:
        """What was seen of a data set, once all records have passed.

        unusable: rows of which no record was made; untaken: records of which no example was made.
        """
        dropped = [*unusable, *self.rows_of(untaken)]
        aside = Counter(row.reason for row in dropped)
        found, statistics = self._said()
        findings = [*self._of_dropped(dropped, rows_read), *found]
        return Diagnosis(
            source=source,
            shape=shape,
            rows_read=rows_read,
            kept=rows_read - aside.total(),
            set_aside=dict(aside.most_common()),
            unreadable=0,
            findings=tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity))),
            statistics=statistics,
        )

    def _of_dropped(self, dropped: Sequence[Dropped], rows_read: int) -> list[Finding]:
        try:
            problems = Problems()
            for row in dropped:
                problems.add(row.origin, Problem(False, row.reason, row.detail))
            return list(problems.findings(rows_read))
        except Exception as error:  # as above
            self._give_up(error)
            return []

    def _said(self) -> tuple[list[Finding], dict[str, Any]]:
        if self._failed or not self._records:
            return [], {}
        try:
            checks = (self._repeats, self._texts)
            found = [f for check in checks for f in check.findings(self._records)]
            return found, dict(self._texts.statistics())
        except Exception as error:  # as above
            self._give_up(error)
            return [], {}


def brief_of_prompts(
    source: str, read: PromptSet, train: Iterable[Prompt], evaluation: Iterable[Prompt]
) -> Diagnosis:
    """Of an RL run: whether prompts to train on are nearly those to evaluate on."""
    aside = Counter(d.reason for d in read.dropped)
    findings: tuple[Finding, ...] = ()
    numbers: dict[str, Any] = {}
    try:
        overlap = PromptOverlap((p.origin, p.content) for p in evaluation)
        for prompt in train:
            text = as_text(prompt.content)
            overlap.see(View(prompt.origin, text, (), (), hash_of(text), True))
        findings, numbers = tuple(overlap.findings(read.rows_read)), dict(overlap.statistics())
    except Exception as error:  # the run matters more
        warn(
            f"the brief look at the prompts failed ({in_words(error)}); the run goes on without it"
        )
    return Diagnosis(
        source=source,
        shape=PROMPTS,
        rows_read=read.rows_read,
        kept=read.rows_read - aside.total(),
        set_aside=dict(aside.most_common()),
        unreadable=0,
        findings=findings,
        statistics=numbers,
    )


def tell(diagnosis: Diagnosis) -> None:
    """A line for each of the first findings, and where to read more."""
    label = "check"
    for finding in diagnosis.findings[:SHOWN]:
        row = f" (first: {finding.rows[0]})" if finding.rows else ""
        say(f"{label:<10}{finding.text.removesuffix('.')}{row}")
        label = ""
    if diagnosis.shape == PROMPTS:
        return  # there is nothing more that check would look at
    more = len(diagnosis.findings) - SHOWN
    rest = f"{more} more findings, and more" if more > 0 else "more"
    nothing = "" if diagnosis.findings else "nothing found at a glance; "
    say(f"{label:<10}{nothing}{rest} with: redpencil check {diagnosis.source}")
