"""The same row asks the same thing in every command, whatever it is written as."""

import json
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from redpencil.cli.main import main
from redpencil.data.prompts import load_prompts, prompt_of
from redpencil.data.records import load_records
from redpencil.data.tokenize import PromptIds, prompt_ids, tokenize_records
from redpencil.recipes.asking import GenerateRecipe, JudgeRecipe
from redpencil.use.completing import ids_of_rows
from redpencil.use.generating import _distinct
from redpencil.use.sides import _asked

QUESTION, GOOD, BAD = "Is it raining in Oslo?", "It rains.", "No idea."
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def user(text=QUESTION, role="user"):
    return {"role": role, "content": text}


def bot(text, role="assistant"):
    return {"role": role, "content": text}


def pair(prompt, wrap, **more):
    return {"prompt": prompt, "chosen": wrap(GOOD), "rejected": wrap(BAD), **more}


def whole(*before, name="role", said="content", human="user", model="assistant"):
    """Two conversations that begin alike."""
    turns = [{name: human, said: text} for text in before]
    return {
        side: [*turns, {name: model, said: text}]
        for side, text in (("chosen", GOOD), ("rejected", BAD))
    }


def transcript(text):
    return f"\n\nHuman: {QUESTION}\n\nAssistant: {text}"


def parts(text):
    return [{"type": "text", "text": text[:4]}, {"type": "text", "text": text[4:], "image": None}]


MESSAGES = pair([user()], lambda text: [bot(text)])
AS_TEXT = {name: json.dumps(value) for name, value in MESSAGES.items()}
SAME = {
    "text": pair(QUESTION, str),
    "messages": MESSAGES,
    "one message": pair(user(), bot),
    "text and messages": pair(QUESTION, lambda text: [bot(text)]),
    "from and value": pair(
        [{"from": "human", "value": QUESTION}], lambda text: {"from": "gpt", "value": text}
    ),
    "aliases": pair([user(role="Human")], lambda text: [bot(text, "ai")]),
    "nulls of a table": pair(
        [{**user(), "name": None, "tool_calls": None}],
        lambda text: [{**bot(text), "name": None, "tool_calls": None}],
    ),
    "parts": pair([user(parts(QUESTION))], lambda text: [bot(parts(text))]),
    "JSON text": AS_TEXT,
    "JSON text twice": {name: json.dumps(value) for name, value in AS_TEXT.items()},
    "JSON text of objects": {
        name: json.dumps({"messages": value}) for name, value in MESSAGES.items()
    },
    "Python text": {name: repr(value) for name, value in MESSAGES.items()},
    "JSON text in one column": {**pair(QUESTION, str), "chosen": json.dumps([bot(GOOD)])},
    "objects": {name: {"messages": value} for name, value in MESSAGES.items()},
    "conversations repeat the prompt": {"prompt": QUESTION, **whole(QUESTION)},
    "a space more": {"prompt": f"{QUESTION} ", **whole(QUESTION)},
    "implicit": whole(QUESTION),
    "implicit, from and value": whole(
        QUESTION, name="from", said="value", human="human", model="gpt"
    ),
    "implicit, JSON text": {name: json.dumps(value) for name, value in whole(QUESTION).items()},
    "transcripts": {"chosen": transcript(GOOD), "rejected": transcript(BAD)},
    "transcripts, stripped": {
        "chosen": transcript(GOOD).strip(),
        "rejected": transcript(BAD).strip(),
    },
    "transcripts of Windows": {
        "chosen": transcript(GOOD).replace("\n", "\r\n"),
        "rejected": transcript(BAD).replace("\n", "\r\n"),
    },
    "prompt is a transcript": pair(transcript("")[:-1], lambda text: f" {text}"),
    "prompt is a transcript, stripped": pair(transcript("").strip(), lambda text: f" {text}"),
    "prompt is a transcript, answers repeat it": pair(transcript("").strip(), transcript),
    "prompt is a transcript, answers are messages": pair(
        transcript("").strip(), lambda text: [bot(text)]
    ),
    "ShareGPT": {
        "conversations": [{"from": "human", "value": QUESTION}],
        "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
    "the conversation holds the answer": {
        "conversations": [user(), bot(GOOD)],
        "prompt": QUESTION,
        "chosen": GOOD,
        "rejected": BAD,
    },
    "the prompt holds the answer": pair([user(), bot(f"{GOOD} ")], bot),
    "Alpaca": {"instruction": QUESTION, "input": "", "chosen": GOOD, "rejected": BAD},
    "messages are the prompt": {"messages": [user()], "chosen": bot(GOOD), "rejected": bot(BAD)},
    "messages end with the better answer": {
        "messages": [user(), bot(GOOD)],
        "rejected_response": BAD,
    },
    "two answers and the winner": {
        "prompt": QUESTION,
        "response_a": GOOD,
        "response_b": BAD,
        "winner": "response_a",
    },
    "ranked": {"prompt": [user()], "responses": [[bot(GOOD)], [bot(BAD)]], "scores": [1, 0]},
    "ranked, JSON text": {
        "prompt": [user()],
        "responses": [json.dumps([bot(GOOD)]), json.dumps([bot(BAD)])],
        "scores": [1, 0],
    },
}


def prompts_of_every_command(path, tokenizer):
    """Ids of the only prompt, by command."""
    loaded = SimpleNamespace(tokenizer=tokenizer)
    found = {}
    for purpose in ("preference", "sft"):
        records = load_records(str(path), purpose=purpose).records
        (example,) = tokenize_records(records, tokenizer, max_length=2048).examples
        # reward and eval read what dpo reads, by the same two functions.
        found[purpose] = example
    (drawn,) = load_prompts(str(path), tokenizer, room=2048).prompts
    assert drawn.prompt_key == found["preference"].prompt_key == found["sft"].prompt_key
    ids = {name: example.prompt_ids for name, example in found.items()} | {"rl": drawn.ids}
    recipe = GenerateRecipe(model="m", data=str(path), num=1)
    (ids["generate"],) = ids_of_rows(loaded, _distinct(recipe), "auto")
    recipe = JudgeRecipe(a="m", b="data:chosen", data=str(path), by="answer", out="o")
    (ids["judge"],) = ids_of_rows(loaded, _asked(recipe), "auto")
    return {name: value.tolist() for name, value in ids.items()}, found["preference"]


def written(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS}, {"system": "Be kind."}], ids=str)
@pytest.mark.parametrize("name", SAME)
def test_the_same_row_asks_the_same_in_every_command(toys, tmp_path, name, more):
    tokenizer = toys.byte_level(toys.CHATML_TOOLS)
    system = [{"role": "system", "content": more["system"]}] if "system" in more else []
    wanted = tokenizer.apply_chat_template(
        [*system, user()], tools=more.get("tools"), add_generation_prompt=True, return_dict=False
    )
    ids, example = prompts_of_every_command(written(tmp_path, {**SAME[name], **more}), tokenizer)
    assert ids == dict.fromkeys(("preference", "sft", "rl", "generate", "judge"), wanted)
    answers = [tokenizer.decode(r.ids.tolist()) for r in example.responses]
    assert answers == [f"{GOOD}<|im_end|>", f"{BAD}<|im_end|>"]


def test_other_tools_are_another_prompt(toys, tmp_path):
    """The equality above sees a difference where there is one."""
    tokenizer = toys.byte_level(toys.CHATML_TOOLS)
    one, _ = prompts_of_every_command(written(tmp_path, {**MESSAGES, "tools": TOOLS}), tokenizer)
    other, _ = prompts_of_every_command(written(tmp_path, MESSAGES), tokenizer)
    assert all(one[command] != other[command] for command in one)


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"prompt": [{"from": "human", "value": QUESTION}]}, [user()]),
        ({"prompt": json.dumps([user()])}, [user()]),
        ({"prompt": transcript("").strip()}, [user()]),
        ({"messages": [user("Hi"), bot("Hello."), user()]}, [user("Hi"), bot("Hello."), user()]),
        ({"messages": [user(), bot(GOOD)]}, [user()]),
        ({"conversations": [{"from": "human", "value": QUESTION}]}, [user()]),
        ({"prompt": [user(parts(QUESTION))], "answer": "4"}, [user()]),
    ],
    ids=str,
)
def test_rows_that_only_ask(toys, tmp_path, row, turns):
    tokenizer = toys.byte_level(toys.CHATML_TOOLS)
    wanted = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    path = written(tmp_path, row)
    (drawn,) = load_prompts(str(path), tokenizer, room=2048).prompts
    assert drawn.ids.tolist() == wanted
    (asked,) = _distinct(GenerateRecipe(model="m", data=str(path), num=1))
    assert ids_of_rows(SimpleNamespace(tokenizer=tokenizer), [asked], "auto")[0].tolist() == wanted
    if "prompt" in row and not isinstance(row["prompt"], str):
        # In memory, too.
        assert prompt_ids(prompt_of(row["prompt"]), tokenizer).tolist() == wanted


@pytest.fixture
def chat_model(toys, tmp_path):
    folder = tmp_path / "model"
    tokenizer = toys.byte_level(toys.CHATML_TOOLS)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, eos_token_id=1, **sizes, **heads
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_commands_hand_tools_to_the_template(chat_model, tmp_path, monkeypatch):
    """From the command line; what is generated keeps its tools, so that training sees them too."""
    path = written(tmp_path, *({**pair(f"{QUESTION} {n}", str), "tools": TOOLS} for n in range(4)))
    seen = []
    original = PromptIds.__call__

    def spy(self, *arguments):
        seen.append(original(self, *arguments).tolist())
        return original(self, *arguments)

    monkeypatch.setattr(PromptIds, "__call__", spy)
    model, out = str(chat_model), tmp_path / "out.jsonl"
    short = ["--max-new-tokens", "4"]
    assert main(["generate", model, "--data", str(path), "--out", str(out), *short]) == 0
    generated, seen[:] = list(seen), []
    judged = ["judge", model, "data:chosen", "--data", str(path), "--by", "toy_rewards:longer"]
    assert main([*judged, "--out", str(tmp_path / "judged"), *short]) == 0
    asked, seen[:] = list(seen), []
    rl = ["rl", "--model", model, "--data", str(path), "--reward", "toy_rewards:longer"]
    steps = ["--max-steps", "2", "--batch-size", "2", "--num", "2", "--sample-prompts", "0"]
    assert main([*rl, "--out", str(tmp_path / "rl"), *steps, *short]) == 0
    tokenizer = AutoTokenizer.from_pretrained(model)
    records = load_records(str(path), purpose="preference").records
    examples = tokenize_records(records, tokenizer, max_length=512).examples
    wanted = [e.prompt_ids.tolist() for e in examples]
    assert generated == asked == seen == wanted
    assert "weather" in tokenizer.decode(wanted[0])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["tools"] == TOOLS for row in rows)


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        bot(GOOD),
        [bot(GOOD)],
        {"from": "gpt", "value": GOOD},
        [{"from": "gpt", "value": GOOD}],
        [bot(parts(GOOD))],
        json.dumps([bot(GOOD)]),
        [user(), bot(GOOD)],
    ],
    ids=str,
)
@pytest.mark.parametrize("column", ["chosen", "mine"])
def test_a_column_that_is_judged_is_read_as_training_reads_it(tmp_path, answer, column):
    rows = [{"prompt": QUESTION, "chosen": GOOD, "rejected": BAD, column: answer}]
    out = tmp_path / "judged"
    sides = ["judge", f"data:{column}", "data:rejected"]
    data = ["--data", str(written(tmp_path, *rows)), "--by", "toy_rewards:longer"]
    assert main([*sides, *data, "--out", str(out)]) == 0
    (judged,) = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert (judged["a"], judged["b"]) == (GOOD, BAD)


def test_rows_that_are_all_set_aside_say_why(tmp_path, capsys):
    rows = [{"prompt": QUESTION, "chosen": [user()], "rejected": BAD}]
    data = ["--data", str(written(tmp_path, *rows)), "--by", "toy_rewards:longer"]
    assert main(["judge", "data:chosen", "data:rejected", *data, "--out", str(tmp_path / "j")]) == 2
    assert "no assistant turn" in capsys.readouterr().err
