"""What the doctor and the suspect list found in the data, as the page shows it."""

from collections.abc import Mapping
from typing import Any

from redpencil.report.rows import Row, number, text
from redpencil.report.rundata import RunData
from redpencil.report.wording import count, percent, short

ORDER = {"error": 0, "warning": 1, "note": 2}
SHOWN_ROWS = 20


def diagnosis(run: RunData) -> dict[str, Any] | None:
    """Findings of `findings.json`, gravest first; None where the run has none of them."""
    found = run.findings.get("findings")
    rows = [_finding(f) for f in found if isinstance(f, Mapping)] if isinstance(found, list) else []
    if not rows:
        return None
    rows.sort(key=lambda row: ORDER[row["severity"]])
    graver = sum(row["severity"] != "note" for row in rows)
    title = f"What the data check found: {count(graver, 'problem')}"
    notes = len(rows) - graver
    return {"title": f"{title}, {count(notes, 'note')}" if notes else title, "findings": rows}


def _finding(found: Row) -> dict[str, Any]:
    severity = str(found.get("severity"))
    n, of = number(found, "count"), number(found, "of")
    counted = "" if n is None else f"{n:,.0f} of {of:,.0f}" if of else f"{n:,.0f}"
    texts = {name: text(found.get(name)) for name in ("title", "text", "example", "why", "advice")}
    return {
        **texts,
        "severity": severity if severity in ORDER else "note",
        "counted": counted,
        "rows": _places(found.get("rows")),
    }


def _places(rows: object) -> str:
    """Rows by file: "pairs.jsonl: 3, 17, 20; more.jsonl: 4"."""
    by_file: dict[str, list[str]] = {}
    for row in rows[:SHOWN_ROWS] if isinstance(rows, list) else []:
        place = row if isinstance(row, Mapping) else {"row": row}
        by_file.setdefault(text(place.get("file")), []).append(text(place.get("row")))
    parts = [f"{file}: {', '.join(n)}" if file else ", ".join(n) for file, n in by_file.items()]
    return "; ".join(parts)


def suspected(run: RunData, shown: int) -> str:
    """How the suspect labels were found, in a sentence or two; "" where the run has none."""
    facts = run.suspected
    if not run.suspects and not facts:
        return ""
    looked = number(facts, "pairs")
    among = f" among {count(looked, 'pair')}" if looked else ""
    sentences = [f"{count(len(run.suspects), 'label')} look wrong{among}."]
    if len(run.suspects) == 1:
        sentences = [f"1 label looks wrong{among}."]
    expected = number(facts, "expected_wrong")
    if expected is not None:
        share = f" ({percent(expected / looked, 1)})" if looked else ""
        sentences.append(f"About {short(expected)}{share} are expected to be wrong.")
    method, folds = text(facts.get("method")), number(facts, "folds")
    if method:
        crossed = f", cross-fitted in {folds:.0f} folds" if folds else ""
        sentences.append(f"Method: {method[:300]}{crossed}.")
    threshold = number(facts, "threshold")
    if threshold is not None:
        sentences.append(
            f"Listed is what has a probability of being right below {short(threshold)}."
        )
    if shown < len(run.suspects):
        sentences.append(f"The first {shown:,} are in this page, all of them in suspects.jsonl.")
    return " ".join(sentences)
