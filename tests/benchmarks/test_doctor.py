"""The doctor's benchmark: its rows are the same each time, and hold what it says is planted."""

from collections import Counter

from benchmarks.doctor import Planted, rows, write

from redpencil.data.reading import Source
from redpencil.doctor.checks import Subject
from redpencil.doctor.examine import examine


def test_check_finds_what_is_planted(tmp_path):
    planted = write(tmp_path / "rows.jsonl", 2500)
    assert planted == Planted(near=2, exact=1, crossed=1)
    found = examine(Subject(source=Source(str(tmp_path / "rows.jsonl"))))
    counts = {f.key: f.count for f in found.findings}
    assert counts == {"near-duplicate": 2, "duplicate": 1, "both-ways": 2}


def test_rows_are_the_same_each_time():
    kinds = Counter(kind for kind, _ in rows(2001))
    assert kinds == {"fresh": 1997, "near": 2, "exact": 1, "crossed": 1}
    assert list(rows(300)) == list(rows(300))
