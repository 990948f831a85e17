"""What checks count: how many, the first rows, an example; and excerpts that a person can read."""

import re
from dataclasses import dataclass, field

from redpencil.doctor.findings import SHOWN_ROWS, Finding, Group, Severity
from redpencil.types import Origin

EXCERPT = 120
"""Characters of an example."""

_VISIBLE = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
_UNSEEN = re.compile(r"([\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff])\1*")


@dataclass(slots=True)
class Tally:
    """A count of rows, of which the first are remembered; the first example is kept."""

    count: int = 0
    rows: list[Origin] = field(default_factory=list)
    example: str = ""

    def add(self, origin: Origin, example: str = "") -> None:
        self.count += 1
        if len(self.rows) < SHOWN_ROWS:
            self.rows.append(origin)
        self.example = self.example or example

    @property
    def wants_example(self) -> bool:
        return not self.example


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is said whenever one kind of thing is found."""

    key: str
    group: Group
    severity: Severity
    title: str
    why: str
    advice: str

    def finding(self, tally: Tally, of: int, text: str, *, example: str | None = None) -> Finding:
        return Finding(
            key=self.key,
            group=self.group,
            severity=self.severity,
            title=self.title,
            text=text,
            count=tally.count,
            of=of,
            rows=tuple(tally.rows),
            example=tally.example if example is None else example,
            why=self.why,
            advice=self.advice,
        )


def excerpt(text: str, start: int = 0, end: int | None = None) -> str:
    """What stands around text[start:end], on one line, unseen characters by name."""
    end = start if end is None else end
    room = max(0, EXCERPT - (end - start)) // 2
    begin, stop = max(0, start - room), min(len(text), max(end + room, start + EXCERPT - room))
    stop = min(stop, begin + EXCERPT)
    before, after = "…" * (begin > 0), "…" * (stop < len(text))
    return before + readable(text[begin:stop]) + after


def readable(text: str) -> str:
    """Text on one line: line breaks and tabs as signs, other unseen characters as \\uXXXX."""
    for character, sign in _VISIBLE.items():
        text = text.replace(character, sign)
    text = _UNSEEN.sub(_named, text)
    return text.encode("utf-8", "backslashreplace").decode()


def _named(run: re.Match[str]) -> str:
    times = len(run.group())
    return f"\\u{ord(run.group(1)):04x}" + (f"×{times}" if times > 1 else "")


def both(one: Origin, other: Origin) -> tuple[str, str]:
    """Two rows by name; within one file their numbers suffice."""
    same = one.file == other.file
    return f"row {one.row}" if same else str(one), f"row {other.row}" if same else str(other)


def rows_of(count: int, of: int, what: str = "row") -> str:
    """`"3 of 1,541 rows"`."""
    return f"{count:,} of {of:,} {what}{'' if of == 1 else 's'}"
