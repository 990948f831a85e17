"""Whole data files: shapes that others write, several files, folders that mean something, and what
is lost of a row: said, or refused. Every row is a record or has its reason."""

import datetime
import decimal
import json

import datasets
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from redpencil.cli.main import main
from redpencil.data.foreign import ASKED, FIRST, TABLE, WINNERS, foreign_of
from redpencil.data.parts import carries_text
from redpencil.data.reading import Source
from redpencil.data.records import load_records, records_from_rows
from redpencil.data.shapes import SHAPES, Kinds
from redpencil.errors import DataError
from redpencil.types import Dropped


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


def talk(answer):
    return [user("q"), bot(answer)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(content):
    """A content as the text of its last turn."""
    return content if isinstance(content, str) else content[-1]["content"]


def pairs(rows):
    """(prompt, chosen, rejected, probability) of every comparison."""
    return [
        (said(r.prompt), said(r.responses[c.chosen]), said(r.responses[c.rejected]), c.probability)
        for r in records_from_rows(rows, "preference").records
        for c in r.comparisons
    ]


GOOD = ("q", "good", "bad", 1.0)
AB = {"prompt": "q", "completion_a": "good", "completion_b": "bad"}
ONE_TWO = {"prompt": "q", "response1": "good", "response2": "bad"}
OUTPUTS = {"instruction": "q", "output_1": "good", "output_2": "bad"}
ARENA = {"model_a": "x", "model_b": "y"}
ARENA |= {"conversation_a": talk("good"), "conversation_b": talk("bad")}
SHP = {"history": "q", "human_ref_A": "good", "human_ref_B": "bad", "score_A": 1, "score_B": 9}
WEB = {"question": {"full_text": "q", "id": 1}, "answer_0": "good", "answer_1": "bad"}
PKU = {"prompt": "q", "response_0": "good", "response_1": "bad", "safer_response_id": 1}
TLDR = {"info": {"article": "q"}, "summaries": [{"text": "good"}, {"text": "bad"}]}

SHAPES_OF_OTHERS = {
    "a letter": ({**AB, "preference": "A"}, GOOD),
    "a column's name": ({**AB, "winner": "completion_a"}, GOOD),
    "the other one": ({**AB, "better": "b"}, ("q", "bad", "good", 1.0)),
    "votes": ({**ONE_TWO, "votes": ["1", "2", "1", 1]}, ("q", "good", "bad", 0.75)),
    "a tie is half a vote": ({**ONE_TWO, "votes": [1, "tie", 2, 1]}, ("q", "good", "bad", 0.625)),
    "annotators": (
        {**ONE_TWO, "annotations": [{"id": 7, "preference": p} for p in ("response1", "tie")]},
        ("q", "good", "bad", 0.75),
    ),
    "numbers of votes": (
        {"prompt": "q", "response_a": "bad", "response_b": "good", "votes_a": 1, "votes_b": 3},
        ("q", "good", "bad", 0.75),
    ),
    "HelpSteer3": (
        {
            "context": [user("q")],
            "response1": "good",
            "response2": "bad",
            "overall_preference": -1,
            "individual_preference": [{"score": s, "reasoning": "r"} for s in (-2, -1, 0, 1)],
        },
        ("q", "good", "bad", 0.625),
    ),
    "HelpSteer2's preferences": (
        {"prompt": "q", "response_1": "bad", "response_2": "good", "preference_strength": 2},
        GOOD,
    ),
    "between 1 and 2": ({**OUTPUTS, "preference": 1.25}, ("q", "good", "bad", 0.75)),
    "Chatbot Arena": ({**ARENA, "winner": "model_a"}, GOOD),
    "Arena, one hot": (
        {
            "prompt": "q",
            "response_a": "bad",
            "response_b": "good",
            "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0,
        },
        GOOD,
    ),
    "SHP counts from A": ({**SHP, "labels": 1}, GOOD),
    "SHP, the other": ({**SHP, "labels": 0}, ("q", "bad", "good", 1.0)),
    "WebGPT": ({**WEB, "score_0": 0.5, "score_1": -0.5}, GOOD),
    "PKU-SafeRLHF": ({**PKU, "better_response_id": 0}, GOOD),
    "PKU-SafeRLHF, the other": ({**PKU, "better_response_id": 1}, ("q", "bad", "good", 1.0)),
    "TL;DR": ({**TLDR, "choice": 0}, ("q\n\nTL;DR:", "good", "bad", 1.0)),
    "UltraFeedback": (
        {
            "instruction": "q",
            "completions": [
                {"response": "bad", "overall_score": 2.0},
                {"response": "good", "overall_score": 8.5},
            ],
        },
        GOOD,
    ),
    "Nectar": (
        {"prompt": "q", "answers": [{"answer": "bad", "rank": 2}, {"answer": "good", "rank": 1}]},
        GOOD,
    ),
    "OpenAI": (
        {
            "input": {"messages": [user("q")]},
            "preferred_output": [bot("good")],
            "non_preferred_output": [bot("bad")],
        },
        GOOD,
    ),
    "ms-swift": ({"messages": talk("good"), "rejected_response": "bad"}, GOOD),
    "ms-swift, messages": ({"messages": talk("good"), "rejected_messages": talk("bad")}, GOOD),
    "axolotl": ({"messages": [user("q")], "chosen": bot("good"), "rejected": bot("bad")}, GOOD),
    "Orca": ({"question": "q", "system": "", "chosen": "good", "rejected": "bad"}, GOOD),
    "j and k": ({"question": "q", "response_j": "good", "response_k": "bad"}, GOOD),
    "Alpaca": (
        {"instruction": "Do", "input": "it", "chosen": "good", "rejected": "bad"},
        ("Do\nit", "good", "bad", 1.0),
    ),
    "Alpaca, output list": (
        {"instruction": "q", "input": "", "output": ["good", "bad"]},
        GOOD,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES_OF_OTHERS)
def test_shapes_of_others(name):
    row, wanted = SHAPES_OF_OTHERS[name]
    # Of a whole file it is known that votes count from 1: one row alone may not show it.
    others = [{**row, "votes": [1, 2, "2"]}] if "votes" in row else []
    assert pairs([row, *others])[0] == wanted
    assert records_from_rows([row], "sft").records, "preferences serve SFT, too"


TIES = {
    "a word": {**AB, "preference": "tie"},
    "both bad": {**ARENA, "winner": "tie (bothbad)"},
    "votes": {**ONE_TWO, "votes": ["response1", "response2"]},
    "scores": {**WEB, "score_0": 0.0, "score_1": 0.0},
    "grades": {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": 0},
}


@pytest.mark.parametrize("name", TIES)
def test_a_tie_teaches_nothing(name):
    read = records_from_rows([TIES[name]], "preference")
    assert [d.reason for d in read.dropped] == ["all responses tied"] and not read.records


def test_one_response_a_row_with_a_grade():
    grades = [("p", "a", 3), ("q", "b", 1), ("p", "c", 1), ("p", "d", 3), ("r", "e", 0)]
    rows = [{"prompt": p, "response": a, "helpfulness": h} for p, a, h in grades]
    read = records_from_rows(rows, "preference")
    (record,) = read.records
    assert record.responses == ("a", "c", "d")
    assert {(c.chosen, c.rejected) for c in record.comparisons} == {(0, 1), (2, 1)}
    assert [d.reason for d in read.dropped] == ["unpaired label"] * 2
    best = records_from_rows(rows, "sft")
    assert [r.responses[0] for r in best.records] == ["a", "d", "b", "e"]
    assert [d.reason for d in best.dropped] == ["no best response"]


UNDECIDED = [
    ({**AB, "preference": 1}, ["row 1", "preference", "completion_a", "chosen and rejected"]),
    ({**ONE_TWO, "label": 0}, ["row 1", "label", "response1"]),
    ({**PKU, "better_response_id": 2}, ["row 1", "better_response_id"]),
    ({**AB, "preference": "perhaps"}, ["row 1", "preference", "perhaps"]),
    (AB, ["completion_a", "completion_b", "no column says which is better"]),
    (ARENA, ["conversation_a", "no column says which is better"]),
]


@pytest.mark.parametrize(("row", "words"), UNDECIDED, ids=lambda x: ",".join(x)[-40:])
def test_what_can_mean_either_is_refused(row, words):
    with pytest.raises(DataError) as caught:
        records_from_rows([row], "preference")
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "did you mean --columns" not in message and "for SFT" not in message


def test_history_becomes_turns_and_nothing_of_alpaca_is_unread():
    row = {"instruction": "now", "input": "then", "history": [["q1", "a1"]], "system": "be brief"}
    (record,) = records_from_rows([{**row, "chosen": "a", "rejected": "b"}], "preference").records
    assert [t["content"] for t in record.prompt] == ["be brief", "q1", "a1", "now\nthen"]
    read = records_from_rows([{**row, "output": "an answer of words"}], "sft")
    assert read.records and not read.notes


def test_every_row_of_the_table_becomes_a_shape_of_ours():
    for foreign in (*FIRST, *TABLE):
        assert foreign.shape in SHAPES and set(foreign.nullable) <= set(foreign.columns)


@pytest.mark.parametrize("winner", WINNERS)
@pytest.mark.parametrize("asked", ASKED)
def test_every_name_of_a_question_and_a_winner(asked, winner):
    row = {asked: "q", "answer_1": "a", "answer_2": "b", winner: 2}
    kinds = Kinds()
    kinds.see(row)
    found = foreign_of(frozenset(row), kinds)
    assert found is not None and found.columns.keys() == row.keys()


# What is not read ---------------------------------------------------------------------------------


def test_text_that_is_not_read_is_a_warning_with_its_share(tmp_path, capsys):
    rows = [
        {"prompt": f"p{n}", "chosen": "a", "rejected": "b", "model": "some/model-1", "rest": rest}
        for n, rest in enumerate(["this is half of it", "", None, "and some more words"])
    ]
    path = write(tmp_path / "a.jsonl", rows)
    notes = load_records(str(path), purpose="preference").notes
    assert 'column "rest" carries text in 2 of 4 rows (50%) and is not read' in notes
    assert "columns not used: model" in notes
    assert main(["check", str(path), "--json"]) == 1
    found = {f["key"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert found["unread-text"]["severity"] == "warning" and found["unread-text"]["count"] == 2
    # A copy of what is read is not lost.
    copied = [{"prompt": "a b c", "chosen": "x", "rejected": "y", "query": "a b c"}]
    assert records_from_rows(copied, "preference").notes == ["columns not used: query"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("one two three", True),
        ([["Hello", "Hi, I am a bot."]], True),
        ([{"role": "user", "content": "what is it"}], True),
        ("오늘은 날씨가 아주 좋습니다", True),
        ("gpt-4", False),
        ("https://example.org/some/where", False),
        (17, False),
        ([0.5, 1.5], False),
        (None, False),
    ],
)
def test_what_carries_text(value, text):
    assert carries_text(value) is text


def test_a_suggestion_says_what_it_leaves_out():
    row = {"text": "some words of one", "input": "other words of two", "good": "a", "bad": "b"}
    with pytest.raises(DataError, match=r"leaves out the text in \"(text|input)\""):
        records_from_rows([row], "preference")


def test_columns_that_change_the_loss_are_named():
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    rows = [{**row, "margin": m, "weight": 2} for m in (1.0, 4.5)]
    read = records_from_rows(rows, "preference")
    assert "with margin from 1 to 4.5 and weight 2" in read.shape
    assert "with" not in records_from_rows([row], "preference").shape
    nothing = records_from_rows([{**row, "weight": 0}], "preference").notes
    assert any('every "weight" is 0' in note for note in nothing)
    coin = records_from_rows([{**row, "probability": 0.5}], "preference").notes
    assert any("coin toss" in note for note in coin)


# Files and folders --------------------------------------------------------------------------------

PAIRS = [{"prompt": f"p{n}", "chosen": f"c{n}", "rejected": f"r{n}"} for n in range(4)]
CHATS = [{"chosen": talk(f"c{n}"), "rejected": talk(f"r{n}")} for n in range(3)]
SCORED = [{"prompt": f"s{n}", "responses": ["a", "b"], "scores": [n, n + 1]} for n in range(2)]
LABELS = [{"prompt": "l", "completion": "a", "label": True}]
MORE_LABELS = [{"prompt": "l", "completion": "b", "label": False}]


def origins(read):
    return [(o.file.rsplit("/", 1)[1], o.row) for group in read.origins for o in group]


def test_each_file_has_a_shape_of_its_own(tmp_path):
    files = [
        write(tmp_path / name, rows)
        for name, rows in (
            ("a.jsonl", PAIRS),
            ("b.jsonl", CHATS),
            ("c.jsonl", SCORED),
            ("d.jsonl", LABELS),
            ("e.jsonl", MORE_LABELS),
        )
    ]
    whole = load_records(str(tmp_path), purpose="preference")
    assert (whole.rows_read, len(whole.records), whole.dropped) == (11, 10, [])
    assert origins(whole)[-2:] == [("d.jsonl", 1), ("e.jsonl", 1)], "labels join across files"
    assert "; and " in whole.shape
    again = load_records([str(f) for f in files], purpose="preference")
    pattern = load_records(str(tmp_path / "*.jsonl"), purpose="preference")
    assert origins(again) == origins(whole) == origins(pattern)
    source = Source([str(f) for f in files])
    assert sum(row.problem is None for row in source.rows()) == 11
    with pytest.raises(DataError, match="different shapes"):
        _ = source.only


def test_shards_of_one_shape_are_one(tmp_path):
    """A column that a file lacks in all its rows is no other shape of it."""
    write(tmp_path / "a.jsonl", [{**row, "weight": 2} for row in PAIRS])
    write(tmp_path / "b.jsonl", [{**row, "prompt": f"q{n}"} for n, row in enumerate(PAIRS)])
    read = load_records(str(tmp_path), purpose="preference")
    assert len(read.records) == 8 and "; and " not in read.shape
    write(tmp_path / "c.jsonl", [{"prompt": "p", "chosen": "c"}])
    with pytest.raises(DataError, match=r'c\.jsonl, row 1: no column "rejected"'):
        load_records(str(tmp_path), purpose="preference")


def test_a_file_for_sft_among_pairs_is_named(tmp_path):
    write(tmp_path / "a.jsonl", PAIRS)
    write(tmp_path / "b.jsonl", [{"messages": talk("x")}])
    with pytest.raises(DataError, match=r"b\.jsonl, row 1: rows with messages are data for SFT"):
        load_records(str(tmp_path), purpose="preference")
    assert len(load_records(str(tmp_path), purpose="sft").records) == 5


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["a.jsonl", "a.jsonl"], "named twice"),
        ([".", "a.jsonl"], "named twice"),
        (["*.parquet"], "no file matches"),
        (["a.jsonl", "z.jsonl"], "z.jsonl: no such file"),
    ],
)
def test_files_that_are_not_what_was_meant(tmp_path, monkeypatch, specs, message):
    write(tmp_path / "a.jsonl", PAIRS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        load_records(specs, purpose="preference")


def saved(rows):
    return datasets.Dataset.from_list(rows)


def test_data_sets_saved_by_datasets(tmp_path):
    saved(PAIRS).save_to_disk(tmp_path / "one")
    both = datasets.DatasetDict({"train": saved(PAIRS), "test": saved(PAIRS[:1])})
    both.save_to_disk(tmp_path / "both")
    for name in ("one", "both"):
        read = load_records(str(tmp_path / name), purpose="preference")
        assert [r.prompt for r in read.records] == ["p0", "p1", "p2", "p3"]
    assert any("not test" in note for note in read.notes)
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="save_to_disk"):
        load_records(str(tmp_path / "one"), purpose="preference")


SHARD = ("train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl")
FOLDERS = {
    # files and their rows -> rows that are read, what a note says
    "named by splits": ({"train.jsonl": 4, "test.jsonl": 2}, 4, "test.jsonl left out"),
    "shards of splits": ({"train-0.jsonl": 3, "train-1.jsonl": 1, "val-0.jsonl": 2}, 4, "val-0"),
    "no splits": ({"a.jsonl": 3, "latest.jsonl": 1}, 4, ""),
    "held out only": ({"test.jsonl": 4}, 4, ""),
    "a Hub repository": ({f"data/{SHARD[0]}": 4, f"data/{SHARD[1]}": 1}, 4, "left out"),
    "folders of splits": ({"train/a.jsonl": 4, "test/a.jsonl": 1}, 4, "not test"),
    "books of datasets": ({"a.jsonl": 4, "dataset_infos.json": 1, "dataset_dict.json": 1}, 4, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_read_of_a_folder(tmp_path, name):
    files, count, note = FOLDERS[name]
    for file, rows in files.items():
        write(tmp_path / "d" / file, PAIRS[:rows])
    (tmp_path / "d" / "README.md").write_text("hello")
    read = load_records(str(tmp_path / "d"), purpose="preference")
    assert read.rows_read == count
    assert any(note in said for said in read.notes) if note else not read.notes


REFUSED = {
    "a run": (["recipe.yaml", "metrics.jsonl", "data.json"], "a run of redpencil, not data"),
    "a model": (["config.json", "tokenizer.json"], "holds a model, not data"),
    "several splits": (
        ["train_sft-00000-of-00001.parquet", "train_prefs-00000-of-00001.parquet"],
        "several splits to train on: train_prefs, train_sft",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_that_are_no_data(tmp_path, name):
    files, message = REFUSED[name]
    for file in files:
        (tmp_path / file).write_text("{}")
    with pytest.raises(DataError, match=message):
        load_records(str(tmp_path), purpose="preference")


# Values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orient", ["columns", "index", "split", "table", "records", "list"])
def test_json_as_pandas_writes_it(tmp_path, orient):
    names = list(PAIRS[0])
    columns = {name: {str(i): row[name] for i, row in enumerate(PAIRS)} for name in names}
    content = {
        "columns": columns,
        "index": {str(i): row for i, row in enumerate(PAIRS)},
        "split": {"columns": names, "index": [0, 1], "data": [[*r.values()] for r in PAIRS]},
        "table": {"schema": {"fields": []}, "data": PAIRS},
        "records": PAIRS,
        "list": {name: [row[name] for row in PAIRS] for name in names},
    }[orient]
    (tmp_path / "a.json").write_text(json.dumps(content))
    read = load_records(str(tmp_path / "a.json"), purpose="preference")
    assert [r.prompt for r in read.records] == ["p0", "p1", "p2", "p3"]
    assert bool(read.notes) == (orient != "records")


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": talk("a"), "rejected": talk("b")},
        {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]},
        {"prompt": [user("p")], "chosen": [bot("a")], "rejected": [bot("b")]},
    ],
)
def test_a_single_row_is_no_table(tmp_path, row):
    (tmp_path / "a.json").write_text(json.dumps(row))
    read = load_records(str(tmp_path / "a.json"), purpose="preference")
    assert read.rows_read == 1 and len(read.records) == 1


def test_an_unnamed_index_column(tmp_path):
    (tmp_path / "a.csv").write_text(",prompt,chosen,rejected\n0,p,a,b\n1,q,c,d\n")
    read = load_records(str(tmp_path / "a.csv"), purpose="preference")
    assert len(read.records) == 2 and "columns not used: unnamed index" in read.notes
    (tmp_path / "b.csv").write_text("prompt,,chosen,rejected\np,0,a,b\n")
    with pytest.raises(DataError, match="column 2 of the CSV header has no name"):
        load_records(str(tmp_path / "b.csv"), purpose="preference")


def test_values_that_leave_no_doubt(tmp_path):
    row = {"prompt": b"p", "responses": ["a", "b"], "scores": [decimal.Decimal("1.5"), None]}
    row |= {"system": float("nan"), "weight": "2"}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    read = load_records(str(tmp_path / "a.parquet"), purpose="preference")
    assert [d.reason for d in read.dropped] == ["fewer than two judged responses"]
    row["scores"] = [decimal.Decimal("1.5"), decimal.Decimal("2")]
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    read = load_records(str(tmp_path / "a.parquet"), purpose="preference")
    (record,) = read.records
    assert (record.prompt, record.comparisons[0].weight) == ("p", 2.0)
    assert (record.comparisons[0].chosen, record.comparisons[0].rejected) == (1, 0)
    notes = " ".join(read.notes)
    assert all(word in notes for word in ('"prompt"', '"scores"', '"weight"', '"system"'))


@pytest.mark.parametrize(
    "kind",
    [pyarrow.duration("us"), pyarrow.timestamp("ms"), pyarrow.date32(), pyarrow.time64("us")],
)
def test_values_that_python_cannot_hold_cost_no_row(tmp_path, kind, capsys):
    limit = 2**31 - 1 if kind == pyarrow.date32() else 2**62
    times = pyarrow.array([1, limit, 2, 3], pyarrow.int32() if limit < 2**32 else None)
    table = pyarrow.table(
        {name: [row[name] for row in PAIRS] for name in PAIRS[0]} | {"at": times.cast(kind)}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    read = load_records(str(tmp_path / "a.parquet"), purpose="preference")
    assert len(read.records) == 4
    assert main(["check", str(tmp_path / "a.parquet")]) in (0, 1)
    # Where such a value is needed, that is said of its row.
    other = table.drop(["prompt"]).rename_columns(["chosen", "rejected", "prompt"])
    parquet.write_table(other, tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r'b\.parquet, row 1, column "prompt": wanted text'):
        load_records(str(tmp_path / "b.parquet"), purpose="preference")


def test_days_in_range_stay_days(tmp_path):
    row = {**PAIRS[0], "day": datetime.date(2024, 2, 29)}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    read = load_records(str(tmp_path / "a.parquet"), purpose="preference")
    assert read.notes == ["columns not used: day"]


# Anything ----------------------------------------------------------------------------------------

NAMES = sorted(
    {name for row, _ in SHAPES_OF_OTHERS.values() for name in row}
    | {"score", "rating", "context", "label", "kto_tag", "output", "completion", "answer"}
)
SCALARS = st.sampled_from(
    ["q", "good text of words", "", "A", "b", "1", "2", "tie", "model_a", 0, 1, 2, -1, 0.5, True]
) | st.none() | st.floats()  # fmt: skip
VALUES = SCALARS | st.sampled_from([talk("a"), [user("q")], bot("a"), ["a", "b"], [["a", "b"]]]) | (
    st.lists(SCALARS, max_size=3)
    | st.lists(st.dictionaries(st.sampled_from(NAMES), SCALARS, max_size=3), max_size=3)
    | st.dictionaries(st.sampled_from([*NAMES, "messages", "full_text"]), SCALARS, max_size=3)
)  # fmt: skip


def changed(row, name, value):
    rest = {k: v for k, v in row.items() if k != name}
    return rest if value is None else {**rest, name: value}


known = st.sampled_from([row for row, _ in SHAPES_OF_OTHERS.values()])
bent = st.builds(changed, known, st.sampled_from(NAMES), VALUES)
wild = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(bent | wild, min_size=1, max_size=4), st.sampled_from(["preference", "sft"]))
def test_rows_near_the_shapes_of_others_are_accounted_for(rows, purpose):
    try:
        read = records_from_rows(rows, purpose)
    except DataError:
        return
    places = [o.row for group in read.origins for o in group]
    places += [d.origin.row for d in read.dropped if isinstance(d, Dropped)]
    assert sorted(places) == list(range(1, len(rows) + 1))
    for record in read.records:
        assert all(0.0 <= c.probability <= 1.0 for c in record.comparisons)
        assert len({c.chosen for c in record.comparisons} | {0}) <= len(record.responses)
