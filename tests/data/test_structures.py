"""Structure that stands in a cell as text: read where it is messages, else left alone."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redpencil.cli.main import main
from redpencil.data.columns import ColumnMap
from redpencil.data.records import load_records, records_from_rows
from redpencil.data.structures import ROLES, messages_in, structured, value_in

texts = st.text(max_size=12) | st.sampled_from(
    [
        'it\'s "quoted"',
        "} {",
        "'a' 'b'",
        "a\n{'x': 1}\n {",
        "\\d [1] \x0c\u2028",
        "array([1])",
        "nan",
    ]
)
message = st.builds(lambda r, c: {"role": r, "content": c}, st.sampled_from(sorted(ROLES)), texts)
message |= st.builds(
    lambda r, c: {"from": r, "value": c}, st.sampled_from(["human", "gpt", "system"]), texts
)
conversations = st.lists(message, min_size=1, max_size=4)
FORMS = {
    "JSON": json.dumps,
    "JSON, indented": lambda turns: f" {json.dumps(turns, indent=1, ensure_ascii=False)}\n",
    "JSON twice": lambda turns: json.dumps(json.dumps(turns)),
    "Python": repr,
    "numpy": lambda turns: str(np.array([*turns, None], dtype=object)[:-1]),
}


@pytest.mark.parametrize("form", FORMS)
@given(turns=conversations)
@settings(max_examples=60, deadline=None)
def test_messages_come_back_from_every_form(form, turns):
    assert messages_in(FORMS[form](turns)) == turns
    assert structured({"a": [FORMS[form](turns), "text"], "b": {"c": FORMS[form](turns)}}) == {
        "a": [turns, "text"],
        "b": {"c": turns},
    }
    wrapped = messages_in(json.dumps({"messages": FORMS[form](turns)}))
    assert wrapped == {"messages": turns}


@given(turns=conversations, before=st.sampled_from(["", "See: ", "- "]), after=st.text(max_size=4))
@settings(max_examples=100, deadline=None)
def test_messages_within_a_text_stay_text(turns, before, after):
    text = f"{before}{json.dumps(turns)}{after}"
    if before or after.strip():
        assert structured({"a": text}) == {"a": text}


LOOK_ALIKE = [
    "[1] The role of the mitochondria is well known.",
    '[{"role": "user"}]',
    '[{"content": "x"}]',
    '[{"role": "narrator", "content": "Once upon a time"}]',
    '[{"role": 1, "content": "x"}]',
    '[{"role": "user", "content": 5}]',
    '{"role": "user", "name": "Tim"}',
    '["role", "user"]',
    '[{"role": "user", "content": "x"}, 5]',
    '[{"role": "user", "content": "x"}',
    "[{'role': 'user', 'content': open('/etc/passwd')}]",
    "[{'role': 'user', 'content': 'a' * 9 ** 9}]",
    "[{'role': f'user', 'content': f'{1}'}]",
    "[" * 3000 + '"role"' + "]" * 3000,
    "(" * 3000 + "'role'" + ")" * 3000,
    '[{"role": "user", "content": "x", "n": ' + "9" * 9999 + "}]",
    "{role: from}",
    '"a quoted role"',
    "",
    "[]",
]


@pytest.mark.parametrize("text", LOOK_ALIKE, ids=lambda t: t[:30])
def test_text_that_looks_alike_stays_text(text):
    assert messages_in(text) is None
    read = records_from_rows([{"prompt": "q", "chosen": f"{text} ", "rejected": "no"}], "sft")
    if text:
        assert read.records[0].responses == (f"{text} ",)
    assert read.notes == []


@given(st.text(alphabet="[]{}()'\",:role userfrom123 \n\\-", max_size=60))
@settings(max_examples=400, deadline=None)
def test_no_text_breaks_it(text):
    for whole in (text, f"[{{'role': {text}", f'{{"role": {text}}}'):
        found = messages_in(whole)
        assert found is None or isinstance(found, list | dict)
        assert value_in(whole) is None or isinstance(value_in(whole), list | dict)


def rows(count, odd):
    """Rows of text, but for one of messages as text."""
    made = [
        {"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(count)
    ]
    made[odd] = {
        name: json.dumps([{"role": role, "content": made[odd][name]}])
        for name, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))
    }
    return made


@pytest.mark.parametrize("odd", [0, 3, 6])
def test_one_row_of_many_is_read_and_said(tmp_path, odd):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(7, odd)))
    read = load_records(str(path), purpose="preference")
    assert read.records[odd].responses[0] == ({"role": "assistant", "content": f"good {odd}"},)
    assert read.records[(odd + 1) % 7].responses[0] == f"good {(odd + 1) % 7}"
    assert 'column "chosen" holds messages as JSON text in 1 rows; they are read as messages' in (
        read.notes
    )


@pytest.mark.parametrize("write", [repr, json.dumps, FORMS["numpy"]], ids=["repr", "json", "numpy"])
def test_csv_files(tmp_path, capsys, write):
    path = tmp_path / "r.csv"
    turn = {"role": "user", "content": 'Why, "Tim"?'}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "chosen", "rejected"])
        for n in range(3):
            said = [[{"role": "assistant", "content": f"{a} {n}\n"}] for a in ("it's", "no")]
            writer.writerow([write([turn]), *map(write, said)])
    read = load_records(str(path), purpose="preference")
    assert [r.prompt for r in read.records] == [(turn,)] * 3
    assert read.records[1].responses[0][0]["content"] == "it's 1\n"
    main(["check", str(path)])
    assert "holds messages as" in capsys.readouterr().out


def test_lists_that_python_or_numpy_printed(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(
        "prompt,responses,scores\nq,\"['good it''s' 'bad']\",[1. 0.]\n".replace("''", "’")
        + 'p,"[\'a\', ""b\'s""]","[2, None]"\n'
    )
    with path.open() as file:
        assert len(list(csv.reader(file))) == 3
    read = load_records(str(path), purpose="sft")
    assert read.records[0].responses == ("good it’s",)
    assert [d.reason for d in read.dropped] == ["fewer than two judged responses"]


def test_an_answer_that_is_json_stays_text_in_csv(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text('prompt,completion\nq,"{""name"": ""Tim""}"\np,"[{""a"": 1}]"\n')
    read = load_records(str(path), purpose="sft")
    assert [r.responses for r in read.records] == [('{"name": "Tim"}',), ('[{"a": 1}]',)]


def test_a_path_goes_into_an_object_that_is_text():
    said = {"question": [{"role": "user", "content": "q"}], "good": "yes", "bad": "no"}
    for form in (json.dumps, repr):
        names = {"prompt": "data.question", "chosen": "data.good", "rejected": "data.bad"}
        row = ColumnMap(names).apply({"data": form(said)})
        assert (row["prompt"], row["chosen"]) == (said["question"], "yes")


def test_rows_of_pandas(tmp_path):
    """What pandas makes of lists in a Parquet file: arrays of objects."""
    turns = np.array([{"role": "user", "content": "q"}], dtype=object)
    answer = np.array([{"role": "assistant", "content": np.array([{"text": "y"}], dtype=object)}])
    row = {"prompt": turns, "chosen": answer, "rejected": "n"}
    (record,) = records_from_rows([row], "preference").records
    assert record.prompt == ({"role": "user", "content": "q"},)
    assert record.responses[0] == ({"role": "assistant", "content": "y"},)
