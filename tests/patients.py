"""Small data files for the doctor, and what it finds in them."""

import json

from redpencil.data.reading import Source
from redpencil.doctor.checks import Subject
from redpencil.doctor.examine import examine


def write(path, rows):
    """Rows as JSONL; a text among them is a line as it stands."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def pair(number, **cells):
    """A row in which nothing is wrong."""
    said = {
        "prompt": f"Question {number}?",
        "chosen": f"Sure {number}.",
        "rejected": f"Nope {number}!",
    }
    return said | cells


def diagnose(spec, purpose=None, columns=None, **subject):
    return examine(Subject(source=Source(spec, purpose, columns), **subject))


def found(diagnosis):
    """Findings on structure and preference by key; likenesses and statistics have other tests."""
    said = (f for f in diagnosis.findings if f.group != "statistics")
    return {f.key: f for f in said if not f.key.startswith("near-")}


def rows_of(finding):
    return [origin.row for origin in finding.rows]
