"""Roles in and out of order."""

import pytest

from patients import diagnose, found, rows_of, write

U, A, S, T = (
    {"role": role, "content": "words"} for role in ("user", "assistant", "system", "tool")
)
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
TALK = [U, A, U]


def row(prompt, number):
    answers = ({"role": "assistant", "content": f"{side} {number}"} for side in ("good", "bad"))
    chosen, rejected = ([answer] for answer in answers)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_what_is_in_order(tmp_path):
    fine = [TALK, [S, U], [U, CALL, T, A, U], [{"role": "developer", "content": "x"}, U], [S, S, U]]
    rows = [row(prompt, n) for n, prompt in enumerate(fine)]
    assert not found(diagnose(write(tmp_path / "a.jsonl", rows)))


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ([U, U], "two user turns in a row"),
        ([U, A], "the prompt ends with the assistant"),
        ([U, A, A, U], "two assistant turns in a row"),
        ([A, U], "the assistant speaks first"),
        ([U, S, U], "a system turn in the middle"),
    ],
)
def test_what_is_not(tmp_path, prompt, kind):
    rows = [row(TALK, 0), row(prompt, 1)]
    finding = found(diagnose(write(tmp_path / "a.jsonl", rows)))["roles-out-of-order"]
    assert rows_of(finding) == [2] and f"1 of 2 rows: {kind} 1." == finding.text


def test_empty_turns(tmp_path):
    rows = [row(TALK, 0), row([U, {"role": "assistant", "content": " "}, U], 1)]
    finding = found(diagnose(write(tmp_path / "a.jsonl", rows)))["empty-turn"]
    assert rows_of(finding) == [2] and "turn 2 of 3 (assistant)" in finding.example


def test_text_and_messages_in_one_file(tmp_path):
    texts = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(3)]
    spec = write(tmp_path / "a.jsonl", [*texts, row(TALK, 1)])
    finding = found(diagnose(spec))["mixed-formats"]
    assert rows_of(finding) == [4] and "1 of 4 rows are messages; 3 are text" in finding.text
