"""Everything that is counted over the texts of the rows, each text made once for all of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from redpencil.data.reading import Source
from redpencil.doctor.findings import Finding, Measure
from redpencil.doctor.numbers.balance import Prompts
from redpencil.doctor.numbers.lengths import Lengths
from redpencil.doctor.numbers.marks import Marks
from redpencil.doctor.numbers.near import NearDuplicates
from redpencil.doctor.numbers.overlap import PromptOverlap
from redpencil.doctor.numbers.shortcuts import WordShortcut
from redpencil.doctor.view import View, view
from redpencil.errors import DataError
from redpencil.types import Origin, Record


class TextCheck(Protocol):
    """Looks at the texts of every kept record, in file order, in bounded memory."""

    def see(self, row: View) -> None: ...

    def findings(self, total: int) -> Iterable[Finding]: ...


class Statistics:
    """A check of the doctor made of text checks."""

    def __init__(self, checks: Sequence[TextCheck]) -> None:
        self.checks = checks
        self._rows = 0

    def see(self, record: Record, origins: tuple[Origin, ...], *, kept: bool = True) -> None:
        """kept: whether training takes it; what its texts are like is counted either way."""
        self._rows += 1
        row = view(record, kept=kept)
        for check in self.checks:
            check.see(row)

    def findings(self, total: int) -> Iterable[Finding]:
        for check in self.checks:
            yield from check.findings(self._rows)

    def statistics(self) -> Mapping[str, Any]:
        said: dict[str, Any] = {}
        for check in self.checks:
            if isinstance(check, Measure):
                said |= check.statistics()
        return said


def all_statistics(evaluation: Source | None = None) -> Statistics:
    """What `redpencil check` looks at. evaluation: of `--eval-data`; its prompts are read here.

    Raises DataError where it has none."""
    checks: list[TextCheck] = [Lengths(), Marks(), WordShortcut(), Prompts(), NearDuplicates()]
    if evaluation is not None:
        records = (read.record for read in evaluation.rows())
        overlap = PromptOverlap((r.origin, r.prompt) for r in records if r is not None)
        if not overlap.prompts:
            raise DataError(
                f"--eval-data {evaluation.spec}: none of its rows can be used, so there is nothing "
                f"to look for; see redpencil check {evaluation.spec}"
            )
        checks.append(overlap)
    return Statistics(checks)
