"""Prompts for rollouts, from prompt files and from preferences."""

import json

import pytest

from redpencil.data.prompts import load_prompts
from redpencil.errors import DataError
from redpencil.world.tokenizer import world_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return world_tokenizer()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_prompts_keep_their_rows_and_come_once(tokenizer, tmp_path):
    rows = [
        {"prompt": "The plot", "answer": "7"},
        {"prompt": "The cast", "answer": "8"},
        {"prompt": "The plot", "answer": "9"},
        {"prompt": "The plot was very dull and the cast was superb", "answer": "1"},
    ]
    read = load_prompts(write(tmp_path / "p.jsonl", rows), tokenizer, room=6)
    assert [p.content for p in read.prompts] == ["The plot", "The cast"]
    assert [p.row["answer"] for p in read.prompts] == ["7", "8"]
    reasons = {d.origin.row: d.reason for d in read.dropped}
    assert reasons == {3: "same prompt as an earlier row", 4: "prompt too long"}
    assert read.rows_read == len(read.prompts) + len(read.dropped)


def test_a_system_column_is_the_first_turn(tokenizer, tmp_path):
    rows = [
        {"system": "Be kind.", "prompt": "The plot"},
        {"system": "Be kind.", "prompt": [{"role": "user", "content": "The cast"}]},
        {"system": " ", "prompt": "The music"},
    ]
    read = load_prompts(write(tmp_path / "p.jsonl", rows), tokenizer, room=99)
    first = {"role": "system", "content": "Be kind."}
    assert [p.content for p in read.prompts] == [
        (first, {"role": "user", "content": "The plot"}),
        (first, {"role": "user", "content": "The cast"}),
        "The music",
    ]


def test_prompts_of_preferences(tokenizer, tmp_path):
    rows = [
        {"prompt": "The plot", "chosen": " was superb.", "rejected": " was dull."},
        {"prompt": "The cast", "chosen": " was superb.", "rejected": " was dull."},
    ]
    explicit = load_prompts(write(tmp_path / "e.jsonl", rows), tokenizer, room=20)
    turns = [
        {
            side: [
                {"role": "user", "content": r["prompt"]},
                {"role": "assistant", "content": r[side]},
            ]
            for side in ("chosen", "rejected")
        }
        for r in rows
    ]
    implicit = load_prompts(
        write(tmp_path / "i.jsonl", turns), tokenizer, room=40, chat_template="none"
    )
    assert [p.content for p in explicit.prompts] == ["The plot", "The cast"]
    assert [p.content[-1]["content"] for p in implicit.prompts] == ["The plot", "The cast"]
    assert implicit.prompts[0].row["chosen"][1]["content"] == " was superb."


def test_rows_set_aside_as_preferences_are_told(tokenizer, tmp_path):
    def turns(text):
        return [{"role": "user", "content": "Why"}, {"role": "assistant", "content": text}]

    rows = [
        {"chosen": turns("the same"), "rejected": turns("the same")},
        {"chosen": turns("superb"), "rejected": turns("dull")},
    ]
    read = load_prompts(write(tmp_path / "s.jsonl", rows), tokenizer, room=40, chat_template="none")
    assert [p.origin.row for p in read.prompts] == [2]
    assert [(d.origin.row, d.reason) for d in read.dropped] == [(1, "identical pair")]


def test_a_column_of_another_name(tokenizer, tmp_path):
    path = write(tmp_path / "q.jsonl", [{"question": "The plot"}])
    with pytest.raises(DataError, match=r'q.jsonl, row 1: no column "prompt".*--columns'):
        load_prompts(path, tokenizer, room=9)
    read = load_prompts(path, tokenizer, room=9, columns={"prompt": "question"})
    assert [p.content for p in read.prompts] == ["The plot"]


@pytest.mark.parametrize("prompt", [7, [], ["text"], {"a": 1}])
def test_a_prompt_of_another_kind_is_one_sentence(tokenizer, tmp_path, prompt):
    with pytest.raises(DataError, match=r"row 1(: no messages|, column)"):
        load_prompts(write(tmp_path / "k.jsonl", [{"prompt": prompt}]), tokenizer, room=9)


def test_nothing_left_says_why(tokenizer, tmp_path):
    path = write(tmp_path / "l.jsonl", [{"prompt": "The plot was very dull"}])
    with pytest.raises(DataError, match="no prompts: prompt too long"):
        load_prompts(path, tokenizer, room=2)
