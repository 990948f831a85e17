"""What the doctor says: findings, the diagnosis they add up to, and what a check must do.

`Diagnosis.as_json()` is what `redpencil check --json` prints and what a training run writes as
`RUN/findings.json`; its keys are stable, and "version" counts up when one changes its meaning.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from redpencil.types import Example, Origin, Record

VERSION = 1
SHOWN_ROWS = 20
"""Row numbers that a finding lists; its count is of all."""

Group = Literal["structure", "preference", "statistics"]
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a person should know about the data.

    key: stable, kebab-case. severity: "error" (rows are lost or wrong), "warning" (it will hurt
    training), "note" (worth knowing; the exit code stays 0). count: how many of `of` rows (or
    whatever `text` counts). rows: the first `SHOWN_ROWS` of them. text: what was found, with the
    numbers; example: a short excerpt; why: why it matters; advice: what to do about it.
    """

    key: str
    group: Group
    severity: Severity
    title: str
    text: str
    count: int
    of: int
    rows: tuple[Origin, ...] = ()
    example: str = ""
    why: str = ""
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "group": self.group,
            "severity": self.severity,
            "title": self.title,
            "text": self.text,
            "count": self.count,
            "of": self.of,
            "rows": [{"file": origin.file, "row": origin.row} for origin in self.rows],
            "example": self.example,
            "why": self.why,
            "advice": self.advice,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a data set holds and what is wrong with it.

    rows_read = kept + the sum of `set_aside` + `unreadable`: no row is lost on the way. kept: rows
    that training would learn from. set_aside: well-formed rows that teach nothing, by reason.
    unreadable: malformed rows, at which training stops. statistics: plain numbers by stable names.
    """

    source: str
    shape: str
    rows_read: int
    kept: int
    set_aside: Mapping[str, int]
    unreadable: int
    findings: tuple[Finding, ...]
    statistics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Nothing but notes was found."""
        return all(finding.severity == "note" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; findings in the order that a person reads them."""
        return {
            "version": VERSION,
            "source": self.source,
            "shape": self.shape,
            "rows_read": self.rows_read,
            "kept": self.kept,
            "set_aside": dict(self.set_aside),
            "unreadable": self.unreadable,
            "clean": self.clean,
            "findings": [finding.as_json() for finding in self.findings],
            "statistics": dict(self.statistics),
        }


class Check(Protocol):
    """Looks at every kept record, in file order, in bounded memory."""

    def see(self, record: Record, origins: tuple[Origin, ...], *, kept: bool = True) -> None:
        """One record and the rows it was made of (several where labels were joined)."""
        ...

    def findings(self, total: int) -> Iterable[Finding]:
        """What was found, once all of `total` rows were seen."""
        ...


class TokenCheck(Protocol):
    """Looks at every kept record as token ids; there is one only with `--model`."""

    def see_example(self, example: Example) -> None: ...

    def findings(self, total: int) -> Iterable[Finding]: ...


@runtime_checkable
class Measure(Protocol):
    """A check of any kind that has numbers for `Diagnosis.statistics`, asked for after `findings`.

    Names are stable, lower_case; values are what `json.dumps` takes.
    """

    def statistics(self) -> Mapping[str, Any]: ...
