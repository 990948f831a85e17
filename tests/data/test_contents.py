"""What is inside a message: parts, weights, calls; and the turns that a prompt is made of."""

import json

import pytest

from redpencil.cli.main import main
from redpencil.data.records import load_records, records_from_rows
from redpencil.data.tokenize import tokenize_records
from redpencil.errors import DataError


def user(content):
    return {"role": "user", "content": content}


def bot(content, **more):
    return {"role": "assistant", "content": content, **more}


def one(row, purpose="preference"):
    read = records_from_rows([row], purpose)
    assert len(read.records) == 1, read.dropped
    return read.records[0]


def aside(row, purpose="preference"):
    (dropped,) = records_from_rows([row], purpose).dropped
    return dropped.reason, dropped.detail


TEXT = {"type": "text", "text": "What is this?"}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([{"type": "image", "image": "x.png"}, TEXT], "turn 1, part 1"),
        ([TEXT, {"type": "image_url", "image_url": {"url": "x"}}], "turn 1, part 2"),
        ([TEXT, {"type": "text", "text": None}], "turn 1, part 2"),
        ({"type": "input_audio", "input_audio": {}}, "turn 1, part 1"),
    ],
    ids=str,
)
def test_parts_that_are_not_text_set_a_row_aside_by_its_place(tmp_path, content, place):
    rows = [
        {"prompt": [user(c)], "chosen": bot("A dog."), "rejected": bot("A cat.")}
        for c in ("What is it?", content, [TEXT])
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load_records(str(path), purpose="preference")
    assert [r.prompt[0]["content"] for r in read.records] == ["What is it?", "What is this?"]
    (dropped,) = read.dropped
    assert dropped.reason == "content that is not text" and dropped.origin.row == 2
    assert place in dropped.detail and 'column "prompt"' in dropped.detail


def test_pictures_in_a_column_of_their_own():
    row = {"prompt": "<image> What is it?", "chosen": "A dog.", "rejected": "A cat."}
    reason = ("content that is not text", '<image> in the text, column "images"')
    assert aside({**row, "images": ["x.png"]}) == reason
    assert one({**row, "images": []}).prompt == row["prompt"]
    assert one({**row, "prompt": "What is it?", "images": ["x.png"]}).prompt == "What is it?"


@pytest.mark.parametrize("content", [[5], [["a"]], 5, None])
def test_content_of_another_kind_is_one_sentence(content):
    with pytest.raises(DataError, match='row 1, column "prompt": a message needs "content"'):
        one({"prompt": [user(content)], "chosen": "a", "rejected": "b"})


def scored(tokenizer, row, purpose="sft", template="auto"):
    """What is scored of the first response, and what it is as a whole with its prompt."""
    tokens = tokenize_records(
        [one(row, purpose)], tokenizer, max_length=2048, chat_template=template
    )
    example = tokens.examples[0]
    response = example.responses[0]
    said = [i for i, s in zip(response.ids.tolist(), response.scored.tolist(), strict=True) if s]
    whole = [*example.prompt_ids.tolist(), *response.ids.tolist()]
    return tokenizer.decode(said), tokenizer.decode(whole)


MUTED = [{"weight": 0}, {"weight": 0.0}, {"loss": False}, {"train": False}, {"loss": 0}]


@pytest.mark.parametrize("muted", MUTED, ids=str)
@pytest.mark.parametrize("template", ["auto", "none"])
@pytest.mark.parametrize("at", [(0,), (1,), (0, 1), (2,)], ids=str)
def test_turns_of_no_weight_are_read_and_not_learned(toys, muted, template, at):
    tokenizer = toys.byte_level(toys.CHATML)
    said = ["one", "two", "three"]

    def row(more):
        turns = [
            (user(f"ask {text}"), bot(text, **(more if n in at else {"weight": 1})))
            for n, text in enumerate(said)
        ]
        return {"messages": [turn for both in turns for turn in both]}

    learned, whole = scored(tokenizer, row(muted), template=template)
    everything, all_of_it = scored(tokenizer, row({}), template=template)
    for n, text in enumerate(said):
        assert (text in learned) is (n not in at)
        assert text in everything
    # The model reads all the same, up to the last turn that is learned.
    assert all_of_it.startswith(whole.removesuffix("</s>"))
    assert 2 in at or whole == all_of_it


@pytest.mark.parametrize("template", ["auto", "none"])
def test_a_muted_turn_at_the_head_of_a_pair(toys, template):
    tokenizer = toys.byte_level(toys.CHATML)
    row = {
        "prompt": "Hi",
        "chosen": [bot("draft one", weight=0), user("again"), bot("final")],
        "rejected": [bot("draft two", weight=0), user("again"), bot("worse")],
    }
    learned, whole = scored(tokenizer, row, "preference", template)
    assert "draft" not in learned and "final" in learned and "draft one" in whole
    plain = {
        side: [bot(turn["content"]) if turn["role"] == "assistant" else turn for turn in row[side]]
        for side in ("chosen", "rejected")
    }
    assert scored(tokenizer, {**row, **plain}, "preference", template)[1] == whole


def test_weights_that_mean_nothing_here():
    row = {"messages": [user("a"), bot("b", weight=0)]}
    assert aside(row, "sft")[0] == "no assistant turn is to be learned"
    with pytest.raises(DataError, match=r'row 1, column "messages": "weight" .* found .*0\.5'):
        one({"messages": [user("a"), bot("b", weight=0.5)]}, "sft")
    record = one({"messages": [{**user("a"), "train": False}, bot("b", train=True)]}, "sft")
    assert record.prompt == (user("a"),) and record.responses == ((bot("b"),),)


ARGUMENTS = {"city": "Oslo", "days": 2}
CALLS = [
    {"tool_calls": [{"type": "function", "function": {"name": "w", "arguments": ARGUMENTS}}]},
    {
        "tool_calls": [
            {"type": "function", "function": {"name": "w", "arguments": json.dumps(ARGUMENTS)}}
        ]
    },
    {"function_call": {"name": "w", "arguments": json.dumps(ARGUMENTS)}},
]


@pytest.mark.parametrize("call", CALLS, ids=["object", "text", "older"])
@pytest.mark.parametrize("content", ["", None])
def test_arguments_of_calls_are_objects(call, content):
    turn = {"role": "assistant", "content": content, **call}
    record = one({"prompt": "q", "chosen": [turn], "rejected": "no"})
    (said,) = record.responses[0]
    assert said["tool_calls"][0]["function"] == {"name": "w", "arguments": ARGUMENTS}
    assert said["content"] == "" and "function_call" not in said


def test_arguments_that_are_no_object_stay():
    call = {"type": "function", "function": {"name": "w", "arguments": "Oslo"}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    record = one({"prompt": "q", "chosen": [turn], "rejected": "no"})
    assert record.responses[0][0]["tool_calls"] == [call]


@pytest.mark.parametrize(
    "written",
    [
        "{{ c.function.arguments | tojson }}",  # most templates
        "{{ c.function.arguments }}",  # prints what it is given
        "{{ '' + c.function.arguments }}",  # takes a text, as DeepSeek's does
    ],
)
def test_templates_get_arguments_as_they_take_them(toys, written):
    template = toys.CHATML.replace(
        "{{ m.content }}",
        "{{ m.content }}{% for c in m.tool_calls or [] %}<call>" + written + "</call>{% endfor %}",
    )
    tokenizer = toys.byte_level(template)
    for call in CALLS:
        row = {"prompt": "q", "chosen": [{**bot(""), **call}], "rejected": "no"}
        learned, _ = scored(tokenizer, row, "preference")
        inside = learned.partition("<call>")[2].partition("</call>")[0]
        assert json.loads(inside) == ARGUMENTS, inside


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "function", "function": {"name": "w", "parameters": {"a": 1}}}],
        '[{"type": "function", "function": {"name": "w", "parameters": {"a": 1}}}]',
        ['{"type": "function", "function": {"name": "w", "parameters": {"a": 1}}}'],
        [{"type": "function", "function": {"name": "w", "parameters": '{"a": 1}'}}],
        "[{'type': 'function', 'function': {'name': 'w', 'parameters': {'a': 1}}}]",
    ],
    ids=str,
)
def test_tools_however_they_are_written(tools):
    record = one({"prompt": "q", "chosen": "a", "rejected": "b", "tools": tools})
    assert record.tools[0]["function"] == {"name": "w", "parameters": {"a": 1}}


@pytest.mark.parametrize(
    "system", ["Be kind.", [user("Be kind.")], {"role": "system", "content": "Be kind."}], ids=str
)
def test_a_system_column(system):
    record = one({"system": system, "prompt": [user("q")], "chosen": "a", "rejected": "b"})
    assert record.prompt == ({"role": "system", "content": "Be kind."}, user("q"))


def test_a_response_without_an_assistant_is_called_so():
    row = {"system": [user("Be kind.")], "prompt": [user("q")], "chosen": [bot("a")]}
    assert aside({**row, "rejected": [user("b")]}) == (
        "no assistant turn",
        "a response has turns of user only",
    )


TALK = [user("Tell me."), bot("A park."), user("And then?")]


@pytest.mark.parametrize("prompt", ["Tell me.", [user("Tell me.")], TALK[-1:], TALK], ids=str)
@pytest.mark.parametrize("head", [[], [{"role": "system", "content": "Be kind."}]], ids=len)
def test_turns_that_all_sides_share_are_the_prompt(prompt, head):
    sides = {side: [*head, *TALK, bot(side)] for side in ("chosen", "rejected")}
    record = one({"prompt": prompt, **sides})
    assert record.prompt == (*head, *TALK)
    assert record.responses == ((bot("chosen"),), (bot("rejected"),))
    assert record.prompt == one(sides).prompt


def test_shared_turns_of_answers_that_do_not_repeat_the_prompt():
    sides = {side: [*TALK[1:], bot(side)] for side in ("chosen", "rejected")}
    record = one({"prompt": "Tell me.", **sides})
    assert record.prompt == tuple(TALK)
    # Where they part at somebody else's turn, that is within the answers.
    sides["rejected"] = [TALK[1], user("Why?"), bot("rejected")]
    record = one({"prompt": "Tell me.", **sides})
    assert record.prompt == (TALK[0],) and len(record.responses[0]) == 3


def test_shared_turns_can_be_shortened(base, tmp_path):
    """A long shared beginning gives way; as part of both answers it could not."""
    talk = [user("Tell me."), bot("word " * 200), user("And then?")]
    rows = [
        {
            "prompt": "Tell me.",
            "chosen": [*talk, bot(f"good {n}")],
            "rejected": [*talk, bot(f"bad {n}")],
        }
        for n in range(4)
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["dpo", "--model", str(base), "--data", str(path), "--out", str(tmp_path / "run")]
    steps = ["--max-steps", "1", "--batch-size", "2", "--sample-prompts", "0"]
    assert main([*asked, *steps, "--max-length", "90", "--eval-fraction", "0"]) == 0
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert facts["set_aside"] == {} and any("shortened" in note for note in facts["notes"])


def test_a_conversation_that_holds_the_answer():
    row = {"conversations": [user("q"), bot("a ")], "prompt": "q", "chosen": "a", "rejected": "b"}
    read = records_from_rows([row], "preference")
    assert read.records[0].prompt == (user("q"),)
    assert any("had one of their answers at the end of the prompt" in note for note in read.notes)
    reason, _ = aside({**row, "conversations": [user("q"), bot("another")]})
    assert reason == "the conversation before the answers ends with an answer of its own"
