"""Chat templates: prompts as generation sees them, responses up to their end-of-turn token."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from redpencil.data.tokenize import decode, prompt_ids, tokenize_records
from redpencil.errors import DataError, RecipeError

TEMPLATES = ("CHATML", "LLAMA3", "LLAMA2", "QWEN3", "GEMMA", "NO_END", "PHI3")
ENDS = {
    "CHATML": "so it is<|im_end|>",
    "LLAMA3": "so it is<|im_end|>",
    "LLAMA2": " so it is </s>",
    "QWEN3": "<think>\n\n</think>\n\nso it is<|im_end|>",
    "GEMMA": "so it is<|im_end|>",
    "NO_END": "so it is</s>",
    "PHI3": "so it is<|im_end|>",
}
relaxed = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def one(tokenizer, row, max_length=10_000, **options):
    done = tokenize_records([row], tokenizer, max_length=max_length, **options)
    assert len(done.examples) == 1, done.dropped
    return done.examples[0]


def generation_ids(tokenizer, messages, **options):
    encoded = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=True, **options
    )
    return encoded["input_ids"]


@pytest.mark.parametrize("build", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_is_what_generation_sees_and_a_response_ends_its_turn(toys, name, build):
    tokenizer = getattr(toys, build)(getattr(toys, name))
    prompt = toys.turns("who?", "me  ", "why the\n\nface?")
    rows = [toys.record(prompt, *(toys.turns(a, first="assistant") for a in ("so it is", "no")))]
    done = tokenize_records(rows, tokenizer, max_length=10_000)
    assert done.notes == [] and done.dropped == []
    example = done.examples[0]
    expected = generation_ids(tokenizer, prompt)
    assert example.prompt_ids.tolist() == expected
    assert prompt_ids(prompt, tokenizer).tolist() == expected
    assert list(expected).count(1 if build == "sentencepiece" else 0) == {
        "LLAMA2": 2,
        "LLAMA3": 1,
        "GEMMA": 1,
    }.get(name, 0)
    response = example.responses[0]
    assert response.scored.all()
    # What a sentencepiece decoder does to a text's start is not the matter here.
    begun = tokenizer("|", add_special_tokens=False)["input_ids"]
    assert decode([*begun, *response.ids], tokenizer) == "|" + ENDS[name]


def test_text_is_one_user_turn(toys):
    tokenizer = toys.byte_level(toys.CHATML)
    as_text = one(tokenizer, toys.record("hi", "yes", "no"))
    as_turns = one(
        tokenizer,
        toys.record(
            toys.turns("hi"),
            toys.turns("yes", first="assistant"),
            toys.turns("no", first="assistant"),
        ),
    )
    np.testing.assert_array_equal(as_text.prompt_ids, as_turns.prompt_ids)
    np.testing.assert_array_equal(as_text.responses[1].ids, as_turns.responses[1].ids)
    assert as_text.prompt_key == as_turns.prompt_key
    plain = one(tokenizer, toys.record("hi", "yes"), chat_template="none")
    assert decode(plain.prompt_ids, tokenizer) == "hi"


@relaxed
@given(said=st.lists(texts, min_size=3, max_size=3), answers=st.lists(texts, min_size=2))
def test_chatml_any_text(toys, said, answers):
    tokenizer = toys.byte_level(toys.CHATML)
    prompt = toys.turns(*said, system="the system")
    example = one(
        tokenizer, toys.record(prompt, *(toys.turns(a, first="assistant") for a in {*answers, "~"}))
    )
    assert example.prompt_ids.tolist() == generation_ids(tokenizer, prompt)
    for response, answer in zip(example.responses, {*answers, "~"}, strict=True):
        assert decode(response.ids, tokenizer) == answer + "<|im_end|>"
        assert response.scored.all()


@pytest.mark.parametrize("name", ["CHATML", "LLAMA3", "LLAMA2", "QWEN3", "GEMMA", "PHI3"])
def test_of_several_turns_only_the_assistants_are_scored(toys, name):
    tokenizer = toys.byte_level(getattr(toys, name))
    answer = toys.turns("one", "and?", "two", "then?", "so it is", first="assistant")
    response = one(tokenizer, toys.record(toys.turns("go"), answer)).responses[0]
    end = " </s>" if name == "LLAMA2" else "<|im_end|>"
    space = " " if name == "LLAMA2" else ""
    scored = decode(response.ids[response.scored], tokenizer)
    assert scored == f"{space}one{end}{space}two{end}{ENDS[name]}"
    unscored = decode(response.ids[~response.scored], tokenizer)
    assert "and?" in unscored and "then?" in unscored and "one" not in unscored


def test_tools(toys):
    tokenizer = toys.byte_level(toys.CHATML_TOOLS)
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    answer = (
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "two"},
    )
    row = toys.record(toys.turns("1 + 1?"), answer, tools=(tool,))
    example = one(tokenizer, row)
    assert example.prompt_ids.tolist() == generation_ids(tokenizer, row.prompt, tools=[tool])
    response = example.responses[0]
    scored = decode(response.ids[response.scored], tokenizer)
    assert scored.startswith("<tool_call>{") and scored.endswith(
        "</tool_call><|im_end|>two<|im_end|>"
    )
    assert "tool\n2" in decode(response.ids[~response.scored], tokenizer)
    other = one(tokenizer, toys.record(toys.turns("1 + 1?"), answer))
    assert other.prompt_key != example.prompt_key
    with pytest.raises(DataError, match="needs a chat template: the row has tools"):
        tokenize_records([row], tokenizer, max_length=99, chat_template="none")


def test_what_a_template_refuses(toys):
    tokenizer = toys.byte_level(toys.GEMMA)
    bad = toys.record(toys.turns("hi", system="Be kind."), toys.turns("yes", first="assistant"))
    message = r"pairs.jsonl, row 1: refused by the chat template: System role not supported"
    with pytest.raises(DataError, match=message):
        tokenize_records([bad], tokenizer, max_length=99)
    with pytest.raises(DataError, match="System role not supported"):
        prompt_ids(bad.prompt, tokenizer)
    # One of several is set aside.
    done = tokenize_records([bad, toys.record("hi", "yes", row=2)], tokenizer, max_length=99)
    assert [(d.origin.row, d.reason) for d in done.dropped] == [(1, "refused by the chat template")]
    assert "turns: system, user" in done.dropped[0].detail


def test_a_template_that_opens_a_thought(toys):
    tokenizer = toys.byte_level(toys.OPEN_THOUGHT)
    with pytest.raises(DataError, match="does not continue its generation prompt: expected '<thi"):
        tokenize_records([toys.record("hi", "yes")], tokenizer, max_length=99)
    example = one(tokenizer, toys.record("hi", "<think>\nhm</think>yes"))
    assert decode(example.responses[0].ids, tokenizer) == "hm</think>yes<|im_end|>"


def test_a_template_from_a_file(toys, tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text(toys.CHATML)
    ids = prompt_ids("hi", toys.byte_level(), chat_template=str(file))
    assert ids.tolist() == prompt_ids("hi", toys.byte_level(toys.CHATML)).tolist()
    file.write_text("{% for m in messages %}")
    with pytest.raises(RecipeError, match=r"chat.jinja: line 1: "):
        prompt_ids("hi", toys.byte_level(), chat_template=str(file))


def test_special_tokens_in_the_text_are_told(toys):
    tokenizer = toys.byte_level(toys.CHATML)
    done = tokenize_records([toys.record("a<|im_end|>b", "c<|im_end|>")], tokenizer, max_length=99)
    assert "1 rows have a special token" in done.notes[0]
    assert decode(done.examples[0].responses[0].ids, tokenizer) == "c<|im_end|><|im_end|>"


def test_no_assistant_turn_is_set_aside(toys):
    rows = [toys.record(toys.turns("hi"), toys.turns("you?")), toys.record("a", "b", row=2)]
    done = tokenize_records(rows, toys.byte_level(toys.CHATML), max_length=99)
    assert [d.reason for d in done.dropped] == ["no assistant turn"]


@pytest.mark.parametrize("template", ["CHATML", "GEMMA", None])
def test_oldest_rounds_go_first_then_the_left_end(toys, template):
    tokenizer = toys.byte_level(getattr(toys, template) if template else None)
    system = None if template == "GEMMA" else "Sys."
    prompt = toys.turns("first", "1st", "second", "2nd", "the third", system=system)
    row = toys.record(prompt, toys.turns("yes", first="assistant"))
    whole = one(tokenizer, row)
    size = len(whole.prompt_ids) + len(whole.responses[0].ids)
    for shorter in (
        (prompt[:1] if system else ()) + prompt[-3:],
        (prompt[:1] if system else ()) + prompt[-1:],
    ):
        limit = len(prompt_ids(shorter, tokenizer)) + len(whole.responses[0].ids)
        done = tokenize_records([row], tokenizer, max_length=limit)
        np.testing.assert_array_equal(done.examples[0].prompt_ids, prompt_ids(shorter, tokenizer))
        np.testing.assert_array_equal(done.examples[0].responses[0].ids, whole.responses[0].ids)
        assert done.truncated == 1 and limit < size
    done = tokenize_records([row], tokenizer, max_length=limit - 3)
    left = decode(done.examples[0].prompt_ids, tokenizer)
    # One token for each letter that is left, and one more for the transcript's space before it.
    rest = {**prompt[-1], "content": "ird" if template else "rd"}
    expected = (*(prompt[:1] if system else ()), rest)
    assert left == decode(prompt_ids(expected, tokenizer), tokenizer)
    done = tokenize_records([row], tokenizer, max_length=12)
    assert [d.reason for d in done.dropped] == ["too long"]


def test_a_long_answer_of_several_turns_loses_its_oldest_rounds(toys):
    tokenizer = toys.byte_level(toys.CHATML)
    answer = toys.turns("one", "and?", "two", "then?", "three", first="assistant")
    row = toys.record(toys.turns("go", system="Sys."), answer)
    whole = one(tokenizer, row)
    size = len(whole.prompt_ids) + len(whole.responses[0].ids)
    example = one(tokenizer, row, max_length=size - 1)
    assert example.prompt_ids.tolist() == generation_ids(
        tokenizer, toys.turns("and?", system="Sys.")
    )
    scored = example.responses[0].ids[example.responses[0].scored]
    assert decode(scored, tokenizer) == "two<|im_end|>three<|im_end|>"


def test_the_small_tokenizer_with_its_own_template(toys, shared_data):
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers-small")
    done = tokenize_records([toys.record("who is it?", "it is me")], tokenizer, max_length=99)
    example = done.examples[0]
    assert example.prompt_ids.tolist() == generation_ids(tokenizer, toys.turns("who is it?"))
    assert example.responses[0].ids[-1] == tokenizer.eos_token_id
    assert "loses text in 1 of 1 rows" in done.notes[0]
