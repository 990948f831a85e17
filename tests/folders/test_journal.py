"""A journal keeps whole rows and forgets a torn one."""

from redpencil.folders.journal import Journal


def test_rows_are_kept_and_a_torn_line_is_not(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    with Journal(path) as journal:
        assert journal.rows == []
        journal.add({"text": "one\u2028line"})
        assert path.read_bytes().endswith(b"\n")  # on disk before the journal is closed
        journal.add({"n": 2})
    with path.open("a") as file:
        file.write('{"n": 3, "te')
    with Journal(path) as journal:
        assert journal.rows == [{"text": "one\u2028line"}, {"n": 2}]
        journal.add({"n": 4})
    with Journal(path) as journal:
        assert [row.get("n") for row in journal.rows] == [None, 2, 4]
