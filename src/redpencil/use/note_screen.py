"""The notebook on screen: counts as bars, pairs side by side with what differs, health in words."""

import difflib
import re
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from redpencil.console import show, warn
from redpencil.notebook import Kind, PairHistory
from redpencil.report.findings import Finding
from redpencil.report.wording import fixed, nats, parts
from redpencil.use.noting import Entry, Note

MEANING: dict[Kind, str] = {
    "corrected": "wrong at the first look, right now",
    "broken": "right at the first look, wrong now",
    "stubborn": "wrong at every look",
    "right": "right at the first look and now",
    "undecided": "a tie, not looked at yet, or back and forth",
}
COLOURS: dict[Kind, str] = {
    "corrected": "green",
    "broken": "red",
    "stubborn": "magenta",
    "right": "blue",
    "undecided": "bright_black",
}
ORDER: tuple[Kind, ...] = ("right", "corrected", "stubborn", "broken", "undecided")
BAR = 24
LONGEST = 700
"""Characters of a text on screen."""
SPARKS = "▁▂▃▄▅▆▇█"


def print_note(note: Note) -> None:
    """Print the notebook of a run."""
    for line in note.damaged:
        warn(line)
    for part in _parts(note):
        show(part)


def _parts(note: Note) -> Iterator[RenderableType]:
    named = "held-out" if note.split == "eval" else "training"
    yield Text.assemble((note.run, "bold"), f": {note.pairs:,} {named} pairs, {_when(note)}")
    yield Text()
    yield _counts(note)
    for kind, entries in note.groups.items():
        count = note.counts[kind]
        if count:
            yield Text()
            yield Text.assemble(
                (kind.capitalize(), f"bold {COLOURS[kind]}"),
                f": {MEANING[kind]}. {_which(kind, len(entries), count)}",
            )
            yield from map(_pair, entries)
    if note.looks < 2:
        yield Text()
        yield Text(_few_looks(note), style="yellow")
    if note.health:
        yield Text()
        yield Text("Health", style="bold")
        yield from map(_finding, note.health)


def _when(note: Note) -> str:
    steps = [s for s in note.steps if s] or [0]
    if note.split == "eval":
        return f"evaluated at {len(note.steps)} steps from {note.steps[0]:,} to {steps[-1]:,}"
    return f"each measured whenever a step used it, up to step {steps[-1]:,}"


def _few_looks(note: Note) -> str:
    if note.looks == 0:
        return (
            "No pair was looked at yet: nothing was measured since the first update, or every "
            "margin is a tie. So none has a kind."
        )
    if note.split == "train":
        unseen = " (but for those of step 1)" if note.unseen else ""
        return (
            f"Each training pair was looked at once{unseen}, before the step that learned from "
            "it: stubborn means wrong when its turn came. With --epochs 2 or more the notebook "
            "sees what became of it."
        )
    return (
        "Each pair was looked at once since training began, so none can have been corrected or "
        "broken: evaluate more often (--eval-every)."
    )


def _which(kind: Kind, shown: int, count: int) -> str:
    if not shown:
        return ""
    worst = "the clearest" if kind in ("right", "corrected") else "those pressed hardest"
    return f"{'All' if shown == count else f'{shown} of {count:,}, {worst}'}:"


def _counts(note: Note) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    shares = parts([note.counts[kind] for kind in ORDER])  # they add up
    for kind, percent in zip(ORDER, shares, strict=True):
        count = note.counts[kind]
        share = count / note.pairs
        bar = Text("█" * round(BAR * share) or ("▏" if count else ""), style=COLOURS[kind])
        table.add_row(
            Text(f"  {kind}", style=COLOURS[kind]),
            f"{count:,}",
            f"{percent}%",
            bar + Text(" " * (BAR - len(bar))),
            Text(MEANING[kind], style="dim"),
        )
    return table


def _pair(entry: Entry) -> RenderableType:
    history = entry.history
    title = Text.assemble(
        (f"pair {history.pair:,}", "bold"),
        f"  {_clean(history.file)}, row {history.row:,}  margin ",
        (
            f"{nats(history.first_margin, sign=True)} → {nats(history.last_margin, sign=True)}",
            "bold",
        ),
        f"  {_sparkline(history)}",
        "" if history.weight is None else f"  weight {history.weight:.2f}",
    )
    if entry.texts is None:
        where = Text(
            "Its texts could not be found in the data from here.",
            style="dim",
        )
        return Padding(Group(title, where), (1, 0, 0, 2))
    prompt, chosen, rejected = map(_cut, map(_clean, entry.texts))
    ours, theirs = _marked(chosen, rejected)
    sides = Table.grid(expand=True, padding=(0, 1))
    sides.add_column(ratio=1)
    sides.add_column(ratio=1)
    sides.add_row(
        Panel(
            ours,
            title=_named(history, "chosen"),
            title_align="left",
            border_style="green",
            subtitle=_scored(history, "chosen"),
            subtitle_align="left",
        ),
        Panel(
            theirs,
            title=_named(history, "rejected"),
            title_align="left",
            border_style="red",
            subtitle=_scored(history, "rejected"),
            subtitle_align="left",
        ),
    )
    return Padding(Group(title, Text(prompt.strip(), style="dim"), sides), (1, 0, 0, 2))


def _named(history: PairHistory, side: str) -> str:
    return f"{side}, {getattr(history, f'length_{side}'):,} tokens"


def _scored(history: PairHistory, side: str) -> str:
    """A response's log-probability beside its reference's, or its reward."""
    own, reference = getattr(history, f"logp_{side}"), getattr(history, f"ref_logp_{side}")
    if own is None or reference is None:
        return f"reward {nats(getattr(history, f'reward_{side}'), sign=True)}"
    return f"log p {fixed(own, 1)} (ref. {fixed(reference, 1)})"


def _sparkline(history: PairHistory) -> str:
    """Margins over training; the higher, the more right."""
    values = [m for _, m in history.margins if m == m]
    if len(values) < 2:
        return ""
    low, high = min(*values, 0.0), max(*values, 0.0)
    scale = (len(SPARKS) - 1) / (high - low or 1.0)
    return "".join(SPARKS[round((v - low) * scale)] for v in values[-40:])


def _marked(chosen: str, rejected: str) -> tuple[Text, Text]:
    """Both texts, with the words that only one of them has in bold."""
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (chosen, rejected))
    ours, theirs = Text(), Text()
    for tag, i, j, m, n in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        ours.append("".join(a[i:j]), style="" if tag == "equal" else "bold green")
        theirs.append("".join(b[m:n]), style="" if tag == "equal" else "bold red")
    return ours, theirs


def _finding(finding: Finding) -> RenderableType:
    fine = finding.severity == "fine"
    mark = ("  ✓ ", "green") if fine else ("  ! ", "bold red")
    parts = [
        mark,
        (f"{finding.title}. ", "" if fine else "bold"),
        (finding.text, "dim" if fine else ""),
    ]
    if finding.advice:
        parts.append((f" {finding.advice}", "italic"))
    return Text.assemble(*parts)


def _clean(text: str) -> str:
    """Without characters that would move the cursor or change the terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else "\u2423" for c in text.replace("\r\n", "\n")
    )


def _cut(text: str) -> str:
    return (
        text
        if len(text) <= LONGEST
        else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"
    )
