"""What only a tokenizer shows."""

import json
import random
import string
from collections import Counter

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from patients import diagnose, found, pair, rows_of, write
from redpencil.data.records import load_records
from redpencil.data.tokenize import TOO_LONG, tokenize_records

WORDS = ["<unk>", "<s>", "</s>", *string.ascii_letters, *string.digits, *".!?, "]


@pytest.fixture(scope="module")
def tokenizer():
    """One token for each ASCII letter; what it does not know becomes <unk>."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def keys(tmp_path, rows, tokenizer):
    diagnosis = diagnose(write(tmp_path / "a.jsonl", rows), tokenizer=tokenizer)
    seen = found(diagnosis)
    seen.pop("runs-together", None)  # of rows whose words have no spaces
    return seen, diagnosis


def test_a_clean_file(tmp_path, tokenizer):
    seen, diagnosis = keys(tmp_path, [pair(n) for n in range(5)], tokenizer)
    assert not seen and diagnosis.kept == 5


def test_text_that_is_lost(tmp_path, tokenizer):
    seen, _ = keys(tmp_path, [pair(1), pair(2, chosen="caf\u00e9")], tokenizer)
    assert list(seen) == ["lossy-tokenizer"] and rows_of(seen["lossy-tokenizer"]) == [2]
    assert "caf" in seen["lossy-tokenizer"].example


def test_special_tokens_in_the_text(tmp_path, tokenizer):
    seen, _ = keys(tmp_path, [pair(1), pair(2, chosen="a</s>b")], tokenizer)
    assert rows_of(seen["special-token-text"]) == [2]
    assert seen["special-token-text"].example == "</s>"


def ids(prompt, chosen, rejected):
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def test_ready_ids(tmp_path, tokenizer):
    rows = [
        ids([1, 5, 6], [7, 2], [8, 2]),
        ids([1, 1, 5], [7, 2], [8, 2]),
        ids([1, 5], [7], [8, 2]),
        ids([1, 9], [7, 99_999], [8, 2]),
        ids([1, 9], [1, 7, 2], [8, 2]),
    ]
    seen, diagnosis = keys(tmp_path, rows, tokenizer)
    assert rows_of(seen["double-bos"]) == [2, 5]
    assert rows_of(seen["missing-end"]) == [3]
    assert rows_of(seen["mistyped-field"]) == [4] and diagnosis.unreadable == 1
    assert diagnosis.kept == 4


def test_different_texts_with_equal_ids(tmp_path, tokenizer):
    rows = [pair(1), pair(2, chosen="\u00e9", rejected="\u00e8"), pair(3)]
    seen, diagnosis = keys(tmp_path, rows, tokenizer)
    assert diagnosis.set_aside == {"identical token ids": 1} and diagnosis.kept == 2
    assert rows_of(seen["identical-tokens"]) == [2]


def lengths(numbers):
    return [pair(n, chosen="x" * size, rejected="y" * size) for n, size in enumerate(numbers)]


def test_a_heap_at_the_greatest_length_is_a_limit(tmp_path, tokenizer):
    drawn = random.Random(0)
    free = [drawn.randrange(5, 120) for _ in range(300)]
    seen, _ = keys(tmp_path, lengths(min(size, 80) for size in free), tokenizer)
    assert "exactly 81 tokens" in seen["cut-off"].text
    seen, _ = keys(tmp_path, lengths(free), tokenizer)
    assert "cut-off" not in seen
    seen, _ = keys(tmp_path, lengths([60] * 300), tokenizer)
    assert "cut-off" not in seen


@pytest.mark.parametrize("max_length", [8, 16, 20, 40])
def test_kept_and_set_aside_are_those_of_training(tmp_path, tokenizer, max_length):
    """Responses of 3 to 27 tokens behind prompts of 14, texts and conversations in turn."""
    rows = []
    for n in range(24):
        asked = {"role": "user", "content": f"Question {n}?"}
        prompt = [asked] * 3 if n % 2 else asked["content"]
        rows.append(pair(n, prompt=prompt, chosen="x" * (n + 2), rejected="y"))
    rows += [pair(30, chosen="\u00e9", rejected="\u00e8")]
    spec = write(tmp_path / "a.jsonl", rows)
    diagnosis = diagnose(spec, tokenizer=tokenizer, max_length=max_length)
    records = load_records(spec, purpose="preference").records
    trained = tokenize_records(records, tokenizer, max_length=max_length)
    aside = Counter(d.reason for d in trained.dropped)
    assert diagnosis.kept == len(trained.examples) and diagnosis.set_aside == aside
    assert diagnosis.kept + aside.total() == diagnosis.rows_read == 25
    seen = found(diagnosis)
    shortened = seen["shortened-prompt"].count if "shortened-prompt" in seen else 0
    assert shortened == trained.truncated
    assert seen["too-long"].count == aside[TOO_LONG] if aside[TOO_LONG] else "too-long" not in seen
    # What the rows are like does not depend on the length that is taken of them.
    whole = diagnose(spec, tokenizer=tokenizer).statistics
    assert diagnosis.statistics["row_tokens"] == whole["row_tokens"]
    assert diagnosis.statistics["response_characters"] == whole["response_characters"]


@pytest.mark.parametrize(("long", "severity"), [(4, "warning"), (8, "error")])
def test_what_loses_most_rows_is_an_error(tmp_path, tokenizer, long, severity):
    rows = [pair(n, chosen="x" * 90 if n < long else "x") for n in range(12)]
    spec = write(tmp_path / "a.jsonl", rows)
    diagnosis = diagnose(spec, tokenizer=tokenizer, max_length=40, longest=50)
    finding = found(diagnosis)["too-long"]
    assert finding.severity == severity and "takes 50 tokens" in finding.advice
    assert diagnosis.kept == 12 - long


def test_a_template_that_refuses(tmp_path, tokenizer):
    talk = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    rows = [pair(1), pair(2, prompt=talk)]
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    (tmp_path / "t.jinja").write_text(template)
    from redpencil.data.reading import Source
    from redpencil.doctor.checks import Subject
    from redpencil.doctor.examine import examine

    subject = Subject(source=Source(write(tmp_path / "a.jsonl", rows)), tokenizer=tokenizer)
    diagnosis = examine(subject, chat_template=str(tmp_path / "t.jinja"))
    assert diagnosis.kept == 1
    assert rows_of(found(diagnosis)["template-refuses"]) == [2]
    json.dumps(diagnosis.as_json())
