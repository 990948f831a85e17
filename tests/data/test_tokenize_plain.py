"""Plain text to ids: BOS once, EOS scored, no space made up, and the ids decode back."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from redpencil.data.encode import Encoder
from redpencil.data.tokenize import decode, prompt_ids, tokenize_records
from redpencil.errors import DataError, RecipeError

relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=30)
BUILDERS = {
    "bytes": lambda toys: toys.byte_level(),
    "bytes with BOS and EOS": lambda toys: toys.byte_level(adds_bos=True),
    "bytes with prefix space": lambda toys: toys.byte_level(prefix_space=True),
    "legacy sentencepiece": lambda toys: toys.sentencepiece(),
    "metaspace first": lambda toys: toys.sentencepiece(scheme="first"),
    "metaspace always": lambda toys: toys.sentencepiece(scheme="always"),
}


def one(tokenizer, row, max_length=10_000, **options):
    done = tokenize_records([row], tokenizer, max_length=max_length, **options)
    assert len(done.examples) == 1, done.dropped
    return done.examples[0]


def body(example, tokenizer):
    start = len(Encoder(tokenizer).start)
    return example.prompt_ids[start:]


@pytest.mark.parametrize("kind", BUILDERS)
@relaxed
@given(prompt=texts, response=texts)
def test_ids_decode_back_to_the_text(toys, kind, prompt, response):
    tokenizer = BUILDERS[kind](toys)
    # A text that has its BOS gets no second, which is not what the tokenizer does by itself.
    assume(tokenizer.bos_token is None or not prompt.startswith(tokenizer.bos_token))
    # Likewise a response that ends with the end token's text.
    assume(not response.endswith(tokenizer.eos_token))
    example = one(tokenizer, toys.record(prompt, response))
    ids = example.responses[0].ids
    assert ids[-1] == tokenizer.eos_token_id and example.responses[0].scored.all()
    assert (ids[:-1] != tokenizer.eos_token_id).all()
    # The same prompt whatever follows, and what the tokenizer makes of it by itself.
    alone = tokenizer(prompt)["input_ids"]
    if alone[-1:] == [tokenizer.eos_token_id]:
        alone = alone[:-1]
    if prompt:
        assert example.prompt_ids.tolist() == alone
        np.testing.assert_array_equal(prompt_ids(prompt, tokenizer), example.prompt_ids)
        whole = decode(np.concatenate([body(example, tokenizer), ids[:-1]]), tokenizer)
        made_up = " " if "prefix" in kind and whole.startswith(" ") else ""
        text = prompt + response
        if "metaspace" in kind:  # gives " a" and "a" the same ids
            text = text.removeprefix(" ")
        assert whole in (text, made_up + text)


@pytest.mark.parametrize("kind", BUILDERS)
def test_nothing_is_lost_and_nothing_is_said(toys, kind):
    tokenizer = BUILDERS[kind](toys)
    rows = [toys.record("Human: 안녕 the\n\nAssistant:", " the an.", "\n\n|x the  a")]
    done = tokenize_records(rows, tokenizer, max_length=1000)
    assert done.notes == []


def test_a_guard_that_merges_gives_way_to_the_next(toys):
    tokenizer = toys.sentencepiece()
    encoder = Encoder(tokenizer)
    assert {g.text for g in encoder.guards} >= {"|", "\n", "."}
    pieces = ["the", " the", ".", "..", "|", "\n", "</s>", "", "가"]
    ids = encoder.encode_continuations(pieces)
    start = tokenizer("X", add_special_tokens=False)["input_ids"]
    back = [tokenizer.decode(start + i.tolist()) for i in ids]
    assert back == ["X" + p for p in pieces]
    assert encoder.lost_continuations(pieces, ids, ids) == []


def test_exact_ids(toys):
    example = one(toys.byte_level(adds_bos=True), toys.record("the", " the", " an"))
    names = toys.byte_level().convert_ids_to_tokens
    assert names(example.prompt_ids.tolist()) == ["<s>", "the"]
    assert [names(r.ids.tolist()) for r in example.responses] == [
        ["Ġthe", "</s>"],
        ["Ġ", "an", "</s>"],
    ]
    assert example.prompt_ids.dtype == np.int32 and example.responses[0].ids.dtype == np.int32


def test_the_boundary_never_merges(toys):
    """ "th" + "e" is one token when encoded together; the prompt keeps its own."""
    names = toys.byte_level().convert_ids_to_tokens
    example = one(toys.byte_level(), toys.record("th", "e", "a"))
    assert names(example.prompt_ids.tolist()) == ["th"]
    assert names(example.responses[0].ids.tolist()) == ["e", "</s>"]


def test_words(toys):
    tokenizer = toys.word_level()
    done = tokenize_records(
        [toys.record("the plot", "is good .", " was bad .")], tokenizer, max_length=99
    )
    assert done.notes == []
    assert decode(done.examples[0].responses[1].ids, tokenizer) == "was bad . </s>"
    done = tokenize_records([toys.record("the plot", "stinks", "was bad")], tokenizer, max_length=9)
    assert "loses text in 1 of 1 rows, e.g. pairs.jsonl, row 1: 'stinks'" in done.notes[0]


def test_bos_only_once(toys):
    tokenizer = toys.byte_level(adds_bos=True)
    assert prompt_ids("<s>a", tokenizer).tolist() == prompt_ids("a", tokenizer).tolist()


def test_an_empty_prompt_begins_with_bos_or_eos(toys):
    assert prompt_ids("", toys.byte_level()).tolist() == [0]
    assert prompt_ids("", toys.byte_level(adds_bos=True)).tolist() == [0]
    assert prompt_ids("", toys.byte_level(bos=None)).tolist() == [1]


def test_eos_in_the_text_is_not_doubled_and_is_told(toys):
    tokenizer = toys.byte_level()
    rows = [toys.record("q\n", "a</s>", "b"), toys.record("q\n", "a</s>b", "c", row=2)]
    done = tokenize_records(rows, tokenizer, max_length=99)
    names = tokenizer.convert_ids_to_tokens
    assert names(done.examples[0].responses[0].ids.tolist()) == ["a", "</s>"]
    assert names(done.examples[1].responses[0].ids.tolist()) == ["a", "</s>", "b", "</s>"]
    assert done.notes == [
        "2 rows have a special token of the tokenizer in their text, "
        "e.g. </s> in pairs.jsonl, row 1; it is read as that token"
    ]


def test_transcripts_without_a_template(toys):
    tokenizer = toys.byte_level()
    prompt = toys.turns("hi", "yes?", "who", system="Be kind.")
    told = one(tokenizer, toys.record(prompt, toys.turns("me", first="assistant")))
    assert decode(told.prompt_ids, tokenizer) == (
        "Be kind.\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: who\n\nAssistant:"
    )
    assert decode(told.responses[0].ids, tokenizer) == " me</s>"
    several = one(tokenizer, toys.record(prompt, toys.turns("me", "ok", "so", first="assistant")))
    answer = several.responses[0]
    assert decode(answer.ids, tokenizer) == " me\n\nHuman: ok\n\nAssistant: so</s>"
    assert decode(answer.ids[answer.scored], tokenizer) == " me so</s>"


def test_hh_transcripts_come_back_letter_by_letter(toys, shared_data):
    tokenizer = toys.gpt2(shared_data / "tokenizer-gpt2")
    packed = (shared_data / "hh-rlhf-harmless/pairs.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).decode().split("\n") if line]
    records, originals = [], []
    for row in rows[:200]:
        said = row["chosen"].split("\n\nHuman: ")
        parts = [("user", p) for p in said[1:]]
        messages = []
        for role, part in parts:
            first, *answers = part.split("\n\nAssistant: ")
            messages.append({"role": role, "content": first})
            messages += [{"role": "assistant", "content": a} for a in answers]
        if messages[-1]["role"] != "assistant":
            continue
        records.append(toys.record(tuple(messages[:-1]), (messages[-1],)))
        originals.append(row["chosen"])
    done = tokenize_records(records, tokenizer, max_length=100_000)
    assert len(done.examples) == len(originals) > 190 and done.notes == []
    for example, original in zip(done.examples, originals, strict=True):
        ids = np.concatenate([example.prompt_ids, example.responses[0].ids[:-1]])
        assert decode(ids, tokenizer) == original


def test_stories_tokenizer(toys, shared_data):
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "stories260K")
    row = toys.record("Once upon a time", ", there was Tim.", " Lily ran.")
    done = tokenize_records([row], tokenizer, max_length=99)
    example = done.examples[0]
    assert done.notes == []
    assert example.prompt_ids.tolist() == tokenizer("Once upon a time")["input_ids"]
    assert example.prompt_ids[0] == 1 and example.responses[0].ids[-1] == 2
    for response, text in zip(example.responses, row.responses, strict=True):
        whole = np.concatenate([example.prompt_ids[1:], response.ids[:-1]])
        assert decode(whole, tokenizer) == "Once upon a time" + text


def test_a_tokenizer_that_loses_text_is_told(toys, shared_data):
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers-small")
    rows = [toys.record("안녕하세요.", "-좋아요", "-no"), toys.record("ab", "-cd", "-ef", row=2)]
    done = tokenize_records(rows, tokenizer, max_length=99, chat_template="none")
    assert len(done.notes) == 1
    assert done.notes[0].startswith("the tokenizer loses text in 1 of 2 rows, e.g. pairs.jsonl, ro")
    rows = [toys.record("the", "가", "나")]
    done = tokenize_records(rows, tokenizer, max_length=99, chat_template="none")
    assert [(d.reason, d.origin.row) for d in done.dropped] == [("identical token ids", 1)]


def test_ready_ids(toys):
    tokenizer = toys.byte_level()
    ids = [np.array(i, dtype=np.int32) for i in ([0, 5, 6, 7], [8, 9], [10])]
    done = tokenize_records([toys.record(*ids)], tokenizer, max_length=6)
    example = done.examples[0]
    assert [r.ids.tolist() for r in example.responses] == [[8, 9], [10]]
    assert all(r.scored.all() for r in example.responses)
    assert done.notes[0].startswith("1 rows came as token ids")
    # Over-long: BOS stays, the prompt's left end goes.
    done = tokenize_records([toys.record(*ids)], tokenizer, max_length=4)
    assert done.examples[0].prompt_ids.tolist() == [0, 7]
    bad = [*ids[:2], np.array([10, 9999], dtype=np.int32)]
    with pytest.raises(DataError, match=r"pairs.jsonl, row 7: token id 9999 is not in the"):
        tokenize_records([toys.record(*bad, row=7)], tokenizer, max_length=9)


def test_plain_prompts_are_cut_on_the_left_and_keep_bos(toys):
    tokenizer = toys.byte_level(adds_bos=True)
    row = toys.record("012345678-", "abc", "d")
    done = tokenize_records([row], tokenizer, max_length=8)
    assert decode(done.examples[0].prompt_ids, tokenizer) == "<s>78-"
    assert decode(done.examples[0].responses[0].ids, tokenizer) == "abc</s>"
    assert done.truncated == 1
    assert done.notes == ["prompt shortened in 1 rows; --max-length 8"]
    done = tokenize_records([row], tokenizer, max_length=5)
    assert done.examples == [] and done.truncated == 0
    assert done.dropped[0].reason == "too long"
    assert done.dropped[0].detail == "15 tokens (longest response 4), allowed are 5"
    # Not half a character: 가 is three bytes.
    done = tokenize_records([toys.record("가나", "abc")], tokenizer, max_length=10)
    assert decode(done.examples[0].prompt_ids, tokenizer) == "<s>나"


@relaxed
@given(prompt=texts, responses=st.lists(texts, min_size=1, max_size=3), room=st.integers(1, 60))
def test_what_is_left_fits_and_no_response_is_cut(toys, prompt, responses, room):
    tokenizer = toys.byte_level(adds_bos=True)
    row = toys.record(prompt, *dict.fromkeys(responses))
    done = tokenize_records([row], tokenizer, max_length=room)
    full = one(tokenizer, row)
    for example in done.examples:
        assert len(example.prompt_ids) + max(len(r.ids) for r in example.responses) <= room
        whole = {r.ids.tobytes() for r in full.responses}
        assert {r.ids.tobytes() for r in example.responses} <= whole
        fitting = sum(len(r.ids) < room - 1 for r in full.responses)  # with BOS and a token
        assert len(example.responses) >= min(len(full.responses), max(fitting, 1))
        tail = example.prompt_ids[1:].tolist()
        assert full.prompt_ids.tolist()[len(full.prompt_ids) - len(tail) :] == tail
        assert example.prompt_key == full.prompt_key
    assert len(done.examples) + len(done.dropped) == 1


def test_half_a_surrogate_is_set_aside(toys):
    rows = [toys.record("q", "a\ud83d", "b"), toys.record("q", "a", "b", row=2)]
    done = tokenize_records(rows, toys.byte_level(), max_length=99)
    assert len(done.examples) == 1
    assert [(d.origin.row, d.reason) for d in done.dropped] == [(1, "not valid Unicode")]


def test_a_template_that_is_not_there(toys):
    with pytest.raises(RecipeError, match=r'no such file .*did you mean "none"'):
        prompt_ids("q", toys.byte_level(), chat_template="non")
