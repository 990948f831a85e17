"""What stands in texts and does not belong there; and what looks like it but is all right."""

import pytest

from patients import diagnose, found, pair, rows_of, write
from redpencil.doctor.rows.patterns import end_of_words, is_placeholder
from redpencil.doctor.tally import EXCERPT, excerpt

FINE = {
    "chosen": "Use <s>old</s> for struck-out text, 3 < 4, a[i], # Heading and ## More.\n- a: b\n"
    "### Answer: 42\nCafé naïve “quotes” — 25 °C £5 São Paulo ÀÉÎ… 👩‍👩‍👧 می‌روم 日本語",
    "rejected": "The user: a person. Humans:\nNone\nUsers: many; n/a in a line.\tTab\r\n",
}


def keys(tmp_path, *rows):
    return found(diagnose(write(tmp_path / "a.jsonl", [pair(0), *rows])))


def test_what_is_all_right_is_not_found(tmp_path):
    assert not keys(tmp_path, pair(1, **FINE), pair(2, prompt=FINE["chosen"]))


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("template-text", {"chosen": "Yes.</s>"}),
        ("template-text", {"rejected": "No.<|im_end|> \n"}),
        ("template-text", {"chosen": "One <|endoftext|> two"}),
        ("template-text", {"chosen": "### Response: so"}),
        ("template-text", {"chosen": "so it is.###"}),
        ("template-text", {"prompt": "[INST] Why? [/INST]"}),
        ("template-text", {"chosen": "a<end_of_turn>"}),
        ("template-text", {"chosen": "ab<｜end▁of▁sentence｜>"}),
        ("turn-marker", {"chosen": "It is.\n\nHuman: And why?"}),
        ("turn-marker", {"rejected": "Assistant: It is."}),
        ("replacement-character", {"prompt": "caf\ufffd"}),
        ("mojibake", {"chosen": "her fiancÃ© Cal"}),
        ("mojibake", {"chosen": "donâ€™t"}),
        ("mojibake", {"chosen": "â\x80\x94 in her"}),
        ("control-character", {"prompt": "\\(\x0crac{1}{2}\\)"}),
        ("control-character", {"chosen": "a\x00b"}),
        ("unseen-character", {"chosen": "a\u200bb"}),
        ("placeholder-answer", {"rejected": "No answer."}),
        ("placeholder-answer", {"chosen": "N/A"}),
        ("placeholder-answer", {"chosen": "답변 없음"}),
    ],
)
def test_what_is_wrong_is_found_in_its_row(tmp_path, key, cells):
    seen = keys(tmp_path, pair(1), pair(2, **cells))
    assert list(seen) == [key]
    assert rows_of(seen[key]) == [3] and seen[key].count == 1 and seen[key].example


def test_a_prompt_that_asks_for_a_dialogue_may_get_one(tmp_path):
    cells = {"prompt": "Write a dialogue.", "chosen": "Here:\nUser: hi\nBot: hello"}
    assert not keys(tmp_path, pair(1, **cells))


def test_strings_are_counted_by_name(tmp_path):
    seen = keys(tmp_path, pair(1, chosen="a</s>", rejected="b</s>"), pair(2, chosen="c<|im_end|>"))
    assert "2 of 3 rows: </s> 2 times, <|im_end|> 1 times; 3 answers" in seen["template-text"].text


def test_messages_are_looked_into(tmp_path):
    talk = [{"role": "user", "content": [{"type": "text", "text": "caf\ufffd"}]}]
    assert "replacement-character" in keys(tmp_path, pair(1, prompt=talk))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Yes. </s>\n", "Yes."),
        ("Yes.###", "Yes."),
        ("a <|im_end|></s> ", "a"),
        ("a</s>b", "a</s>b"),
        ("ends with <s>old</s>", "ends with <s>old</s>"),
        ("space behind ", "space behind "),
        ("</s>", ""),
        ("a ##", "a ##"),
    ],
)
def test_the_end_of_the_words(text, kept):
    assert text[: end_of_words(text)] == kept


def test_long_texts_take_no_long_time():
    """The number of steps is linear: a quadratic one would need minutes for these."""
    for text in (" " * 400_000 + "x", "\n" * 400_000 + "x", "#" * 400_000, "</s>" * 100_000):
        assert end_of_words(text) <= len(text)


def test_placeholders_are_whole_answers():
    assert is_placeholder(' "no answer"</s>') and is_placeholder("TODO")
    assert not is_placeholder("There is no answer to this") and not is_placeholder("None")


def test_excerpts_are_one_line_and_short():
    text = "x" * 500 + "\n\u202e<here>\ufeff\ufeff" + "y" * 500
    at = text.index("<here>")
    seen = excerpt(text, at, at + 6)
    assert "<here>" in seen and "\\u202e" in seen and "\\ufeff×2" in seen and "⏎" in seen
    assert len(seen) < EXCERPT + 20 and seen.startswith("…") and seen.endswith("…")
