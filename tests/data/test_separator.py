"""Prompt and answer of plain text: found where nothing is between them, and put apart."""

import json

import pytest
from transformers import AutoTokenizer

from redpencil.cli.main import main
from redpencil.data.chat import use_separator
from redpencil.data.prompts import load_prompts
from redpencil.data.render import SEPARATOR, runs_together, separator_of
from redpencil.data.tokenize import decode, prompt_ids, tokenize_records
from redpencil.recipes.stages import make_recipe

MISSING = [
    ("Hi there?", "Well"),
    ("the plot", "was dull"),
    ('He said "no"', "Then"),
    ("좋은", "날"),
]
FINE = [
    ("Hi there?", " Well"),
    ("Hi there?\n", "Well"),
    ("2 + 2 =", "4"),
    ("Answer (", "A)"),
    ("the plot", ", dull"),
    ("今日は？", "はい"),
    ("今日", "は"),
    ("สวัสดี", "ครับ"),
    ("", "Well"),
    ("Hi", ""),
]


@pytest.mark.parametrize(("prompt", "answer"), MISSING)
def test_what_runs_together(prompt, answer):
    assert runs_together(prompt, answer)


@pytest.mark.parametrize(("prompt", "answer"), FINE)
def test_what_does_not(prompt, answer):
    assert not runs_together(prompt, answer)


def notes(tokenizer, toys, *pairs):
    records = [toys.record(p, c, f"{c[:1]}other", row=n) for n, (p, c) in enumerate(pairs, 1)]
    return tokenize_records(records, tokenizer, max_length=99).notes


def test_a_share_of_the_rows_is_said(toys):
    tokenizer = toys.byte_level()
    (said,) = notes(tokenizer, toys, *[("Hi there?", "Well")] * 3, ("Hi there?", " Well"))
    assert said.startswith("prompt and response run together in 3 of 4 rows (75%), e.g. ")
    assert "row 1: 'Hi there?' + 'Well'" in said and "--separator" in said
    # A token that reaches over the border: Ġ and "the" are one.
    (said,) = notes(tokenizer, toys, ("Hi ", "the end"))
    assert "'Hi ' + 'the end'" in said
    assert notes(tokenizer, toys, ("Hi", " the end"), ("2 + 2 =", "4")) == []
    # Few rows may be meant, and a tokenizer of words makes the space itself.
    assert notes(tokenizer, toys, ("a", "b"), *[("a", " b")] * 30) == []
    words = toys.record("the plot", "is good .", "was bad .")
    assert tokenize_records([words], toys.word_level(), max_length=99).notes == []
    assert notes(toys.byte_level(toys.CHATML), toys, ("Hi there?", "Well")) == []


@pytest.mark.parametrize(
    ("separator", "prompt", "answer"),
    [
        (" ", "Hi?", " Well"),
        ("\n", "Hi?\n", "Well"),
        ("\n\n", "Hi?\n\n", "Well"),
        ("\nA: ", "Hi?\nA:", " Well"),
        ("", "Hi?", "Well"),
    ],
)
def test_a_separator_stands_where_nothing_does(toys, tmp_path, separator, prompt, answer):
    tokenizer = toys.byte_level()
    use_separator(tokenizer, separator, "auto")
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert separator_of(again) == separator
    for one in (tokenizer, again):
        record = toys.record("Hi?", "Well", "No")
        (example,) = tokenize_records([record], one, max_length=99).examples
        assert decode(example.prompt_ids, one) == prompt
        assert decode(example.responses[0].ids, one) == f"{answer}</s>"
        assert prompt_ids("Hi?", one).tolist() == example.prompt_ids.tolist()
    # White space that is there already is not doubled.
    for before, after in ((prompt, "Well"), ("Hi?", answer), (prompt, answer)):
        (example,) = tokenize_records(
            [toys.record(before, after, "No")], tokenizer, max_length=99
        ).examples
        whole = decode(example.prompt_ids, tokenizer) + decode(example.responses[0].ids, tokenizer)
        assert whole == f"{prompt}{answer}</s>"


def test_a_run_keeps_its_separator(base, tmp_path, capsys):
    data = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"The {noun}", "chosen": "was superb.", "rejected": "was dull."}
        for noun in ("plot", "cast", "music", "film", "ending", "acting")
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, out = ["--model", str(base)], tmp_path / "run"
    assert main(["check", str(data), *model, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert "runs-together" in [f["key"] for f in found]
    assert main(["check", str(data), *model, "--separator", "\\n", "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)["findings"]
    assert "runs-together" not in [f["key"] for f in found]

    steps = ["--max-steps", "1", "--batch-size", "2", "--sample-prompts", "0"]
    asked = ["dpo", *model, "--data", str(data), *steps]
    assert main([*asked, "--out", str(tmp_path / "plain")]) == 0
    assert "run together in 6 of 6 rows" in capsys.readouterr().err
    assert main([*asked, "--out", str(out), "--separator", " "]) == 0
    assert "run together" not in capsys.readouterr().err
    saved = AutoTokenizer.from_pretrained(out / "model")
    assert saved.init_kwargs[SEPARATOR] == " "
    written = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert written and all(row["chosen"].startswith(" was") for row in written)
    # The next stage, and whoever asks this model, renders as it did.
    assert main(["eval", str(out)]) == 0
    capsys.readouterr()
    again = ["dpo", "--model", str(out / "model"), "--data", str(data), *steps]
    assert main([*again, "--out", str(tmp_path / "next")]) == 0
    assert "run together" not in capsys.readouterr().err


def test_a_separator_is_part_of_prompts_to_be_answered(base, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(base)
    data = tmp_path / "prompts.jsonl"
    data.write_text('{"prompt": "The plot"}\n')
    (bare,) = load_prompts(str(data), tokenizer, room=99).prompts
    use_separator(tokenizer, "The", "auto")
    (one,) = load_prompts(str(data), tokenizer, room=99).prompts
    assert one.ids.tolist() != bare.ids.tolist()
    assert one.ids.tolist() == prompt_ids("The plotThe", tokenizer).tolist()


def test_a_separator_beside_a_chat_template_is_refused(base, tmp_path, capsys):
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    asked = ["dpo", "--model", str(base), "--data", str(data), "--out", str(tmp_path / "run")]
    assert main([*asked, "--chat-template", str(template), "--separator", " "]) == 2
    assert "--separator is for plain text" in capsys.readouterr().err
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_escapes_of_the_shell():
    needed = {"model": "m", "data": "d", "out": "o"}
    assert make_recipe("dpo", {**needed, "separator": "\\n\\n"}).separator == "\n\n"
    assert make_recipe("dpo", {**needed, "separator": "\t"}).separator == "\t"
    assert make_recipe("dpo", needed).separator is None
