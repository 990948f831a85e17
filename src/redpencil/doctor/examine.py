"""The examination: every row goes by every check, and what they say becomes a diagnosis."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from redpencil.data.notes import Notes
from redpencil.data.parts import MISTYPED, Problem
from redpencil.data.tokenize import TOO_LONG, ExampleStream
from redpencil.doctor.checks import CHECKS, ROW_CHECKS, TOKEN_CHECKS, Subject
from redpencil.doctor.findings import SEVERITIES, Check, Diagnosis, Finding, Measure, TokenCheck
from redpencil.doctor.joining import LabelledRows
from redpencil.doctor.numbers.budget import TokenLengths
from redpencil.doctor.reasons import Problems, little_left
from redpencil.doctor.rows.forms import left_out
from redpencil.doctor.rows.tokens import noted
from redpencil.doctor.rowwise import RowCheck
from redpencil.types import Dropped, Origin, Record

Kept = tuple[Record, tuple[Origin, ...]]
AnyCheck = TypeVar("AnyCheck")
_GROUPS = ("structure", "preference", "statistics")


def examine(subject: Subject, *, chat_template: str = "auto") -> Diagnosis:
    """Read the data once more, past all checks.

    Without a tokenizer nothing is said about token ids. Raises DataError for what cannot be read
    on, RecipeError for a chat template that is none.
    """
    return Examination(subject, chat_template).run()


def with_finding(diagnosis: Diagnosis, finding: Finding) -> Diagnosis:
    """What somebody else found in the same data, in its place among the findings."""
    found = sorted((*diagnosis.findings, finding), key=_rank)
    return replace(diagnosis, findings=tuple(found))


class Examination:
    """One reading with its checks. kept: rows that can be learned from; records: made of them."""

    def __init__(self, subject: Subject, chat_template: str) -> None:
        self.subject = subject
        self.source = subject.source
        self.chat_template = chat_template
        self.kept = 0
        self.records = 0
        self.lost: Record | None = None
        """What is seen although it is not kept: its text tells something all the same."""
        self.problems = Problems()
        self.noted: Notes | None = None
        self.row_checks: list[RowCheck] = _made(ROW_CHECKS, subject)
        self.checks: list[Check] = _made(CHECKS, subject)
        with_ids = TOKEN_CHECKS if subject.tokenizer is not None else ()
        self.token_checks: list[TokenCheck] = _made(with_ids, subject)
        self.lengths = TokenLengths(subject.max_length, subject.longest)
        if subject.tokenizer is not None:
            self.token_checks.append(self.lengths)

    def run(self) -> Diagnosis:
        records = self._records()
        for record, origins in records if self.subject.tokenizer is None else self._seen(records):
            for check in self.checks:
                check.see(record, origins, kept=record is not self.lost)
        total = self.source.rows_read
        if TOO_LONG in self.problems.set_aside:
            self.problems.advice[TOO_LONG] = self.lengths.advice()
        checks: Sequence[Any] = [*self.row_checks, *self.checks, *self.token_checks]
        found = [
            *little_left(self.kept, self.records, total),
            *self.problems.findings(total),
            *left_out(self.source),
            *(noted(self.noted, total, self.subject.max_length) if self.noted else ()),
            *(finding for check in checks for finding in check.findings(total)),
        ]
        measures = [check for check in checks if isinstance(check, Measure)]
        diagnosis = Diagnosis(
            source=self.source.spec,
            shape=self.source.sentence,
            rows_read=total,
            kept=self.kept,
            set_aside=dict(self.problems.set_aside.most_common()),
            unreadable=self.problems.unreadable,
            findings=tuple(sorted(found, key=_rank)),
            statistics={k: v for m in measures for k, v in m.statistics().items()},
        )
        accounted = self.kept + sum(diagnosis.set_aside.values()) + diagnosis.unreadable
        assert accounted == total, f"{accounted} of {total} rows accounted for"
        return diagnosis

    def _records(self) -> Iterator[Kept]:
        """Records in file order, of labelled rows in the order of their prompts."""
        labelled = LabelledRows(self.source.purpose) if self.source.joined else None
        for read in self.source.rows():
            for check in self.row_checks:
                check.see_row(read)
            if read.problem:
                self.problems.add(read.origin, read.problem)
            elif labelled is not None and read.label is not None:
                labelled.add(read)
            else:
                assert read.record is not None
                yield self._keep(read.record, (read.origin,))
        for record, origins, dropped in labelled.joined() if labelled else ():
            self._set_aside(dropped)
            if record is not None:
                self.problems.paired_prompts += 1
                yield self._keep(record, origins)

    def _keep(self, record: Record, origins: tuple[Origin, ...]) -> Kept:
        self.records += 1
        self.kept += len(origins)
        return record, origins

    def _seen(self, records: Iterator[Kept]) -> Iterator[Kept]:
        """Records that have token ids, which the token checks have seen as training would.

        Those that are too long are not kept, but what the texts are like does not depend on that.
        """
        tokenizer = self.subject.tokenizer
        assert tokenizer is not None
        waiting: deque[Kept] = deque()

        def fed() -> Iterator[Record]:
            for record, origins in records:
                if problem := _outside(record, len(tokenizer)):
                    self._lose((record, origins), problem)
                    continue
                waiting.append((record, origins))
                yield record

        stream = ExampleStream(
            fed(),
            tokenizer,
            max_length=self.subject.max_length,
            chat_template=self.chat_template,
            measure=self.lengths.see_whole,
        )
        told = 0
        for example in stream:
            for check in self.token_checks:
                check.see_example(example)
            while waiting[0][0].origin != example.responses[0].origin:
                yield from self._dropped(waiting.popleft(), stream.dropped[told])
                told += 1
            yield waiting.popleft()
        for kept, dropped in zip(waiting, stream.dropped[told:], strict=True):
            yield from self._dropped(kept, dropped)
        self.noted = stream.counted

    def _dropped(self, kept: Kept, dropped: Dropped) -> Iterator[Kept]:
        record, _ = kept
        assert record.origin == dropped.origin, (record.origin, dropped.origin)
        self._lose(kept, Problem(False, dropped.reason, dropped.detail))
        if dropped.reason == TOO_LONG:
            self.lost = record
            yield kept

    def _lose(self, kept: Kept, problem: Problem) -> None:
        """A record that token ids show to be none."""
        _, origins = kept
        self.records -= 1
        self.kept -= len(origins)
        for origin in origins:
            self.problems.add(origin, problem)

    def _set_aside(self, dropped: Sequence[Dropped]) -> None:
        for row in dropped:
            self.problems.add(row.origin, Problem(False, row.reason, row.detail))


def _made(
    factories: Iterable[Callable[[Subject], AnyCheck | None]], subject: Subject
) -> list[AnyCheck]:
    return [check for factory in factories if (check := factory(subject)) is not None]


def _outside(record: Record, vocabulary: int) -> Problem | None:
    """Token ids that the tokenizer does not have."""
    for content in (record.prompt, *record.responses):
        if isinstance(content, np.ndarray) and len(content) and content.max() >= vocabulary:
            return Problem(
                True,
                MISTYPED,
                f"{record.origin}: token id {content.max()} is not in the tokenizer's vocabulary "
                f"of {vocabulary}; tokenize the data with this model's tokenizer",
            )
    return None


def _rank(finding: Finding) -> tuple[int, float, int]:
    """Errors first; within a severity what concerns the greatest share, then by group."""
    share = finding.count / max(finding.of, 1)
    return SEVERITIES.index(finding.severity), -share, _GROUPS.index(finding.group)
