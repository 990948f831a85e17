"""A diagnosis for a person: the verdict first, then what was found, gravest first."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from redpencil.console import show
from redpencil.doctor.findings import SEVERITIES, Diagnosis, Finding, Severity
from redpencil.doctor.fix import Fixed
from redpencil.doctor.reasons import LITTLE
from redpencil.doctor.summary import sentences
from redpencil.doctor.tally import readable
from redpencil.types import Origin

_STYLE: dict[Severity, str] = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}
_SIGN: dict[Severity, str] = {"error": "✗", "warning": "!", "note": "·"}
_HEADING: dict[Severity, str] = {
    "error": "Errors: rows are lost or wrong",
    "warning": "Warnings: this will hurt training",
    "note": "Notes: worth knowing",
}


def print_diagnosis(diagnosis: Diagnosis) -> None:
    show(_head(diagnosis))
    several = len(diagnosis.statistics.get("files", ())) > 1
    for severity in SEVERITIES:
        found = [f for f in diagnosis.findings if f.severity == severity]
        if found:
            show(Text(f"\n{_HEADING[severity]}", style=_STYLE[severity]))
            for finding in found:
                show(Padding(_finding(finding, name_file=several), (1, 0, 0, 0)))
    if numbers := list(sentences(diagnosis.statistics)):
        show(Text("\nNumbers", style="bold"))
        show(Padding(_table(numbers), (1, 0, 0, 0)))
    show(Text())


def print_fixed(fixed: Fixed) -> None:
    """What `--fix` wrote."""
    listed = ", ".join(f"{reason} {count:,}" for reason, count in fixed.removed.items())
    changes = []
    if fixed.changed:
        changes += [f"{fixed.changed:,} rows lost a template string at the end of an answer"]
    if fixed.mended:
        changes += [f"{fixed.mended:,} suspect pairs were mended"]
    lines = [
        f"Wrote {fixed.kept:,} of {fixed.rows_read:,} rows to {fixed.out}.",
        f"Removed: {listed}." if listed else "No row was removed.",
        f"Changed: {', '.join(changes)}." if changes else "No row was changed.",
        f"Every change and removal is in {fixed.log}.",
    ]
    show(Text("\n".join(lines)))


def _head(diagnosis: Diagnosis) -> RenderableType:
    counts = {s: sum(f.severity == s for f in diagnosis.findings) for s in SEVERITIES}
    said = [f"{n} {severity}{'s' * (n != 1)}" for severity, n in counts.items() if n]
    if any(finding.key == LITTLE.key for finding in diagnosis.findings):
        verdict = Text(
            f"Not yet: next to nothing to learn from ({' and '.join(_listed(said))}).",
            style=_STYLE["error"],
        )
    elif counts["error"]:
        verdict = Text(f"Not yet: {' and '.join(_listed(said))}.", style=_STYLE["error"])
    elif counts["warning"]:
        verdict = Text(f"Usable, but look: {' and '.join(_listed(said))}.", style=_STYLE["warning"])
    else:
        rest = f", {said[0]}" if said else ""
        verdict = Text(f"Clean{rest}.", style="bold green")
    told = [
        ("data", diagnosis.source),
        ("shape", diagnosis.shape),
        ("rows", _rows_said(diagnosis)),
    ]
    return Group(verdict, Text(), _table(told))


def _table(told: Sequence[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for label, text in told:
        table.add_row(label, Text(text))
    return table


def _listed(said: Sequence[str]) -> list[str]:
    """For " and ".join: "a, b", "c"."""
    return [", ".join(said[:-1]), said[-1]] if len(said) > 1 else list(said)


def _rows_said(diagnosis: Diagnosis) -> str:
    said = f"{diagnosis.rows_read:,} read, {diagnosis.kept:,} to learn from"
    aside = sum(diagnosis.set_aside.values())
    if aside:
        listed = ", ".join(f"{reason} {n:,}" for reason, n in diagnosis.set_aside.items())
        said += f", {aside:,} set aside ({listed})"
    if diagnosis.unreadable:
        said += f", {diagnosis.unreadable:,} malformed"
    return said


def _finding(finding: Finding, *, name_file: bool) -> RenderableType:
    sign, style = _SIGN[finding.severity], _STYLE[finding.severity]
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True, width=9)
    table.add_column(overflow="fold")
    table.add_row("", Text(finding.text))
    if finding.rows:
        table.add_row("  rows", Text(_places(finding, name_file=name_file)))
    if finding.example:
        table.add_row("  example", Text(readable(finding.example), style="italic"))
    table.add_row("  why", Text(finding.why))
    table.add_row("  do", Text(finding.advice))
    title = Text.assemble((f"{sign} {finding.title}", style), (f"  [{finding.key}]", "dim"))
    return Group(title, table)


def _places(finding: Finding, *, name_file: bool) -> str:
    """Row numbers, by file where the data have several; how many are not listed."""
    if not name_file:
        said = _numbers(finding.rows)
    else:
        by_file = groupby(finding.rows, key=lambda origin: origin.file)
        said = "; ".join(f"{file}: {_numbers(list(rows))}" for file, rows in by_file)
    more = finding.count - len(finding.rows)
    return f"{said} and {more:,} more" if more > 0 else said


def _numbers(rows: Sequence[Origin]) -> str:
    return ", ".join(str(origin.row) for origin in rows)
