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
    looked, folds = number(facts, "pairs"), number(facts, "folds")
    among = f" of {count(looked, 'pair')}" if looked else ""
    if facts.get("refusal"):
        return (
            f"Suspect labels{among}: none is called wrong. {_ended(text(facts['refusal'])[:400])}"
        )
    found = len(run.suspects)
    looks = "has a label that looks" if found == 1 else "have labels that look"
    sentences = [f"{found:,}{among} {looks} wrong."]
    method, agrees = text(facts.get("method")), number(facts, "accuracy")
    if method:
        by = f"Judged by {method[:200]}" + (f" in {folds:.0f} folds" if folds else "")
        agreeing = f", which agrees with {percent(agrees)} of the labels" if agrees else ""
        sentences.append(f"{by}{agreeing}.")
    expected, precision = number(facts, "expected_wrong"), number(facts, "expected_precision")
    if expected is not None:
        share = f" ({percent(expected / looked, 1)})" if looked else ""
        sentences.append(f"About {short(expected)}{share} are expected to be wrong in all.")
    if found and precision is not None:
        sentences.append(f"Of those listed, about {percent(precision)} are.")
    if shown < found:
        sentences.append(f"The first {shown:,} are in this page, all of them in suspects.jsonl.")
    return " ".join(sentences)


def _ended(sentence: str) -> str:
    return f"{sentence[:1].upper()}{sentence[1:]}" + ("" if sentence.endswith(".") else ".")
