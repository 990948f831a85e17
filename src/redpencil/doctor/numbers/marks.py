"""Marks of style that may tell the chosen response from the rejected one: lists, bold, refusals.

For each mark only the pairs count in which one response has it and the other has not. A mark is
told where it is there often and nearly always on the same side.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redpencil.doctor.findings import SHOWN_ROWS, Finding
from redpencil.doctor.tally import excerpt
from redpencil.doctor.view import View
from redpencil.intervals import wilson_interval
from redpencil.types import Origin

OFTEN = 0.1
"""Share of the rows that a mark must tell apart before it is told,"""
AT_LEAST = 30
"""and how many rows."""
CLEARLY = 0.65
"""The whole interval of the share on one side must lie above this."""

LONGEST = 20_000
"""Characters of a response in which marks are looked for."""

_REFUSALS = (
    "i'm sorry, but",
    "i am sorry, but",
    "i'm sorry, i can",
    "i cannot",
    "i can't help",
    "i can't assist",
    "i won't be able to",
    "i'm not able to",
    "i am not able to",
    "i'm unable to",
    "i am unable to",
    "as an ai",
    "as a language model",
    "죄송하지만",
    "죄송합니다",
    "도와드릴 수 없",
    "도움을 드릴 수 없",
    "인공지능으로서",
    "언어 모델로서",
)


def _found(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.MULTILINE)
    return lambda text: compiled.search(text) is not None


def _refuses(text: str) -> bool:
    begin = text[:400].lower().replace("’", "'")
    return any(phrase in begin for phrase in _REFUSALS)


_CLOSING = " \t\n\"')”’"
_ASKING = ("?", "？")

MARKS: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "list": ("a list, by bullets or numbers", _found(r"^[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+\S")),
    "bold": ("bold type (**...**)", _found(r"\*\*[^*\n]+\*\*")),
    "heading": ("a heading (# ...)", _found(r"^#{1,6}[ \t]+\S")),
    "code": ("a code block (```)", lambda text: "```" in text),
    "refusal": ("a phrase of refusal in its first 400 characters", _refuses),
    "question": ("a question at its end", lambda text: text[-9:].rstrip(_CLOSING)[-1:] in _ASKING),
    "exclamation": ("an exclamation mark", lambda text: "!" in text or "！" in text),
    "unfinished": ("no punctuation at its end", lambda text: text.rstrip()[-1:].isalnum()),
    "leading-space": ("a space at its beginning", lambda text: text[:1] == " "),
    "line-break": ("more than one line", lambda text: "\n" in text.strip()),
}
"""Key, what a response with the mark has, and how it is seen."""


@dataclass(slots=True)
class _Side:
    """Rows in which only one side has a mark: their weight, the first of them, a text with it."""

    weight: float = 0.0
    rows: list[Origin] | None = None
    example: str = ""


class Marks:
    """The check; see the head of this file. A row counts once, shared among its comparisons."""

    def __init__(self) -> None:
        self._sides = {(mark, side): _Side() for mark in MARKS for side in ("chosen", "rejected")}
        self._told = dict.fromkeys(MARKS, 0)
        self._rows = 0

    def see(self, row: View) -> None:
        if not row.pairs or not row.is_text:
            return
        self._rows += 1
        texts = [text[:LONGEST] for text in row.responses]
        for mark, (_, has) in MARKS.items():
            found = [has(text) for text in texts]
            if True not in found or False not in found:
                continue
            only = [found[c] for c, r in row.pairs if found[c] != found[r]]
            if not only:
                continue
            self._told[mark] += 1
            which = found.index(True)
            chosen, rejected = sum(only) / len(row.pairs), only.count(False) / len(row.pairs)
            if chosen:
                self._add(self._sides[mark, "chosen"], chosen, row, which)
            if rejected:
                self._add(self._sides[mark, "rejected"], rejected, row, which)

    def _add(self, side: _Side, share: float, row: View, which: int) -> None:
        side.weight += share
        side.rows = side.rows if side.rows is not None else []
        if len(side.rows) < SHOWN_ROWS:
            side.rows.append(row.origin)
        side.example = side.example or f"{row.origin}: {excerpt(row.responses[which])}"

    def statistics(self) -> Mapping[str, Any]:
        """For each mark in how many rows only the chosen, only the rejected response has it."""
        marks = {
            mark: {
                "chosen": round(self._sides[mark, "chosen"].weight, 2),
                "rejected": round(self._sides[mark, "rejected"].weight, 2),
                "rows": self._told[mark],
            }
            for mark in MARKS
        }
        return {"marks": {mark: said for mark, said in marks.items() if said["rows"]}}

    def findings(self, total: int) -> Iterable[Finding]:
        for mark, (what, _) in MARKS.items():
            chosen, rejected = self._sides[mark, "chosen"], self._sides[mark, "rejected"]
            rows, weight = self._told[mark], chosen.weight + rejected.weight
            if rows < max(AT_LEAST, OFTEN * self._rows):
                continue
            side, most = max((("chosen", chosen), ("rejected", rejected)), key=_weight)
            share = most.weight / weight
            low, high = wilson_interval(share, rows)
            if low <= CLEARLY:
                continue
            yield Finding(
                key=f"shortcut-{mark}",
                group="statistics",
                severity="note",
                title=f"The {side} response has {what}",
                text=f"Where only one response has {what}, it is the {side} one {share:.1%} of the "
                f"time ({low:.1%} to {high:.1%}, {rows:,} of {self._rows:,} rows).",
                count=rows,
                of=self._rows,
                rows=tuple(most.rows or ()),
                example=most.example,
                why="A model learns such a mark before it learns what makes an answer good, and "
                "puts it (or leaves it out) everywhere.",
                advice="Right if it is what you want; else take the mark out of both sides, or add "
                "pairs in which it stands on the other side.",
            )


def _weight(named: tuple[str, _Side]) -> float:
    return named[1].weight
