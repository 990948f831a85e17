"""Files, folders and Hub names: every format gives the same rows; every mistake one sentence."""

import csv
import gzip
import json
import re
import subprocess

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from redpencil.data import sources
from redpencil.data.records import load_records
from redpencil.data.sources import attempt_rows, read_rows
from redpencil.errors import DataError

ROWS = [
    {"prompt": f'p {i}, "q"\nnext', "chosen": f"가 {i}", "rejected": "r", "weight": 0.5 + i}
    for i in range(5)
]


def write(path, rows=ROWS):
    name = path.name.removesuffix(".gz")
    plain = path.with_name(name)
    if name.endswith(".jsonl"):
        plain.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    elif name.endswith(".json"):
        plain.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif name.endswith(".csv"):
        with plain.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), plain)
    if path != plain:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return str(path)


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix, zipped):
    read = list(read_rows(write(tmp_path / f"rows.{suffix}{zipped}")))
    assert [row for _, row in read] == ROWS
    assert [origin.row for origin, _ in read] == [1, 2, 3, 4, 5]


def test_jsonl_rows_are_line_numbers_and_bom_is_no_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}\r\n')
    assert [(o.row, r["a"]) for o, r in read_rows(str(path))] == [(1, 1), (3, 2)]


def test_json_may_hold_one_object_a_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert [r["a"] for _, r in read_rows(str(path))] == [1, 2]


def test_folder_in_sorted_order_without_hidden_files(tmp_path):
    for name in ("b.jsonl", "a.csv", ".hidden.jsonl", "c.json.gz"):
        write(tmp_path / name)
    (tmp_path / "README.md").write_text("hello")
    files = [o.file.rsplit("/", 1)[1] for o, _ in read_rows(str(tmp_path))]
    assert list(dict.fromkeys(files)) == ["a.csv", "b.jsonl", "c.json.gz"]
    assert len(files) == 15


def test_csv_cells_hold_messages_numbers_and_text_in_brackets(tmp_path):
    turns = [{"role": "user", "content": "hi"}]
    row = {"prompt": json.dumps(turns), "chosen": "[1, 2]", "rejected": "{no", "weight": ""}
    (_, read), *_ = read_rows(write(tmp_path / "a.csv", [row]))
    assert read == {"prompt": turns, "chosen": "[1, 2]", "rejected": "{no", "weight": None}
    ranked = {"prompt": "p", "responses": '["a", "b"]', "scores": "[1, 2]", "label": "True"}
    (_, read), *_ = read_rows(write(tmp_path / "b.csv", [ranked]))
    assert read == {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2], "label": True}


def test_columns_rename_swap_and_go_into_fields(tmp_path):
    rows = [{"q": "p", "chosen": "x", "rejected": "y", "a.b": {"c": 1}, "k": [{"s": 1}, {"s": 2}]}]
    path = write(tmp_path / "a.jsonl", rows)
    columns = {"prompt": "q", "chosen": "rejected", "rejected": "chosen"}
    (_, row), *_ = read_rows(path, columns={**columns, "weight": "a.b.c", "scores": "k.s"})
    assert row["prompt"] == "p" and row["chosen"] == "y" and row["rejected"] == "x"
    assert row["weight"] == 1 and row["scores"] == [1, 2] and "q" not in row


BAD = {
    "a.jsonl": [
        (b"", "a.jsonl: the file holds no rows"),
        (b'{"prompt": 1}\n{"prompt":\n', "a.jsonl, row 2: not valid JSON"),
        (b"[1]\n", "a.jsonl, row 1: a row must be an object"),
        (b'{"a": "\xff"}\n', "a.jsonl, row 1: not valid UTF-8"),
        (b'{"a": ' + b"[" * 100_000, "a.jsonl, row 1:"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a.jsonl, row 1: not valid JSON"),
    ],
    "a.json": [
        (b" \n", "a.json: the file holds no rows"),
        (b"[]", "a.json: the file holds no rows"),
        (b'[{"a": 1},\n{"a" 2}]', "a.json: not valid JSON.*line 2"),
        (b'[{"a": 1}, 3]', "a.json, row 2: a row must be an object"),
        (b'[\n{"a": "\xff"}]', "a.json, line 2: not valid UTF-8"),
    ],
    "a.csv": [
        (b"", "a.csv: the file holds no rows"),
        (b"prompt,chosen\n", "a.csv: the file holds no rows"),
        (b"a,b\n1,2\n1,2,3\n", r"a.csv, row 2 \(line 3\): 3 cells.* 2 columns"),
        (b"a,a\n1,2\n", 'the CSV header has column "a" twice'),
        (b"a,\n1,2\n", "column 2 of the CSV header has no name"),
        (b'a,b\n1,"2\n', "a.csv, row 1.*malformed CSV"),
        (b"a,b\n1,\xff\n", "a.csv, row 1: not valid UTF-8"),
    ],
    "a.parquet": [(b"PAR1 no", "a.parquet: not a readable Parquet file")],
    "a.jsonl.gz": [
        (gzip.compress(b'{"a": 1}\n' * 9999)[:-20], "a.jsonl.gz: truncated or damaged gzip"),
        (b"not gzip", "a.jsonl.gz: is not gzipped, .* rename it to a.jsonl"),
    ],
    "a.txt": [(b"hello", "a.txt: unknown kind of file")],
}


@pytest.mark.parametrize(
    ("name", "content", "message"), [(n, *case) for n, cases in BAD.items() for case in cases]
)
def test_malformed_files_name_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(str(tmp_path / name)))


def test_missing_file_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: pytest.fail("asked the Hub"))
    write(tmp_path / "pairs.jsonl")
    monkeypatch.chdir(tmp_path)
    for spec in ("pair.jsonl", f"{tmp_path}/pairs.jsnl", "./pairs", "org/pairs.jsonl", "a/b/c"):
        with pytest.raises(DataError, match="no such file"):
            list(read_rows(spec))
    with pytest.raises(DataError, match=r'did you mean "pairs.jsonl"\?'):
        list(read_rows("pair.jsonl"))


def test_folder_without_data(tmp_path):
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match=r"no data files directly in this folder.*sub"):
        list(read_rows(str(tmp_path)))


def test_columns_that_are_not_there(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"good": "x", "bad": "y"}])
    with pytest.raises(DataError, match="redpencil reads no column 'chosn'; did you mean \"chos"):
        list(read_rows(path, columns={"chosn": "good"}))
    with pytest.raises(DataError, match='no column "godo"; did you mean "good"'):
        list(read_rows(path, columns={"chosen": "godo"}))


def test_hub(monkeypatch):
    asked = []

    def load(name, split):
        asked.append((name, split))
        if name == "org/none":
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'org/none' doesn't exist")
        if split == "tset":
            raise ValueError("Unknown split \"tset\". Should be one of ['train', 'test'].")
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(sources, "_reachable", lambda endpoint: True)
    read = list(read_rows("org/name:test"))
    assert asked == [("org/name", "test")] and [r for _, r in read] == ROWS
    assert str(read[1][0]) == "org/name:test, row 2"
    list(read_rows("name"))
    assert asked[-1] == ("name", "train")
    with pytest.raises(DataError, match="org/none: found neither as a local path nor on the Hub"):
        list(read_rows("org/none"))
    with pytest.raises(DataError, match="Should be one of"):
        list(read_rows("org/name:tset"))


def test_hub_without_a_network_says_so_at_once(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: pytest.fail("retries for long"))
    monkeypatch.setattr(sources, "_reachable", lambda endpoint: False)
    with pytest.raises(DataError, match=r"neither as a local path nor on the Hub.*no connection"):
        load_records("org/surely-not-cached", purpose="sft")


def test_a_row_is_named_by_its_file_in_a_folder(tmp_path):
    write(tmp_path / "a.jsonl")
    write(tmp_path / "b.jsonl", [ROWS[0], {"prompt": "p", "chosen": "c"}])
    wanted = re.escape(f'{tmp_path}/b.jsonl, row 2: no column "rejected"')
    with pytest.raises(DataError, match=wanted):
        load_records(str(tmp_path), purpose="preference")


def test_malformed_rows_in_their_place(tmp_path):
    """What one row spoils, one row costs; what spoils the file is an error there, too."""
    lines = [json.dumps(ROWS[0]), '{"a": ', "", "7", json.dumps(ROWS[1])]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    read = list(attempt_rows(str(tmp_path / "a.jsonl")))
    assert [raw.origin.row for raw in read] == [1, 2, 4, 5]
    assert [isinstance(raw.cells, DataError) for raw in read] == [False, True, True, False]
    (tmp_path / "b.csv").write_bytes(b'a,b\n1,2\n1\n3,\xff\n3,"4"5\n6,7\n')
    read = list(attempt_rows(str(tmp_path / "b.csv")))
    assert [isinstance(raw.cells, DataError) for raw in read] == [False, True, True, True, False]
    assert read[-1].cells == {"a": "6", "b": "7"} and read[-1].csv
    (tmp_path / "c.json").write_text('[{"a": 1}, 2, {"a": 3}]')
    read = list(attempt_rows(str(tmp_path / "c.json")))
    assert [isinstance(raw.cells, DataError) for raw in read] == [False, True, False]
    (tmp_path / "c.json").write_text('[{"a": 1}, {"a"]')
    with pytest.raises(DataError, match="not valid JSON"):
        list(attempt_rows(str(tmp_path / "c.json")))


@pytest.mark.parametrize(("levels", "read"), [(150, True), (250, False), (100_000, False)])
def test_nesting_has_an_end(tmp_path, levels, read):
    row = '{"prompt": "p", "chosen": "c", "rejected": "r", "x": ' + "[" * levels + "]" * levels
    (tmp_path / "a.jsonl").write_text(row + "}")
    if read:
        assert len(list(read_rows(str(tmp_path / "a.jsonl")))) == 1
    else:
        with pytest.raises(DataError, match=r"a\.jsonl, row 1: JSON nested too deeply"):
            list(read_rows(str(tmp_path / "a.jsonl")))


def test_a_bad_json_line_has_one_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": "x", "rejected": \n{"a": 2}\r\n')
    (error,) = (
        row.cells
        for row in attempt_rows(str(tmp_path / "a.jsonl"))
        if isinstance(row.cells, DataError)
    )
    said = str(error).partition("row 2: not valid JSON: ")[2]
    assert said.startswith("Expecting value (column 24") and "line" not in said
    assert "\\n" not in said


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_way_out_of_other_separators_works(tmp_path, separator, packed):
    path = tmp_path / ("my file.csv.gz" if packed else "my file.csv")
    text = (
        separator.join(("prompt", "chosen")) + "\n" + separator.join(('"a, b"', '"c""\nd"')) + "\n"
    )
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    with pytest.raises(DataError, match="commas") as caught:
        list(read_rows(str(path)))
    subprocess.run(str(caught.value).partition("write it anew: ")[2], shell=True, check=True)
    rows = [row for _, row in read_rows(str(tmp_path / "commas-my file.csv"))]
    assert rows == [{"prompt": "a, b", "chosen": 'c"\nd'}]
