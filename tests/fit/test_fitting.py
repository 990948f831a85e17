"""What ends a text may be several tokens (Llama 3, Gemma 3, GLM 4), wherever a model says so, and a
chat template too; and what does not fit into a model's positions is said."""

import json
import shutil

import numpy as np
import pytest

from redpencil.cli.main import main
from redpencil.fit.fitting import end_token_ids
from redpencil.models.load import load_model, pick_device
from redpencil.models.probe import takes_trees
from redpencil.models.training_mode import score_in_training_as_at_rest
from zoo import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")


def with_fields(base, folder, **fields):
    """A copy of a model's folder; fields: what is set in config.json and generation_config.json."""
    shutil.copytree(base, folder)
    for name, changes in fields.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


SMALL = ["--max-steps", "2", "--batch-size", "4", "--sample-prompts", "0"]
REWARD = ["--reward", "redpencil.world.reward:rewards", "--num", "2", "--max-new-tokens", "4"]
COMMANDS = {
    "dpo": SMALL,
    "sft": SMALL,
    "reward": SMALL[:-2],
    "rl": [*SMALL, *REWARD],
    "plan": ["--no-time"],
}


@pytest.mark.parametrize("command", [*COMMANDS, "eval"])
def test_several_end_tokens_in_every_command(base, pairs, tmp_path, monkeypatch, command):
    monkeypatch.setenv("REDPENCIL_CACHE", str(tmp_path / "cache"))
    both = {"eos_token_id": [2, 1]}
    model = with_fields(base, tmp_path / "base", config=both, generation_config=both)
    if command == "eval":
        assert main(["eval", str(model), "--data", str(pairs)]) == 0
        return
    out = ["--out", str(tmp_path / "run")] if command != "plan" else []
    inputs = ["--model", str(model), "--data", str(pairs)]
    assert main([command, *inputs, *out, *COMMANDS[command]]) == 0
    if out:
        saved = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
        assert saved["eos_token_id"] == [2, 1]


@pytest.mark.parametrize("ends", [2, [2], [2, 5, 7], [], None])
def test_end_tokens_of_a_model(base, tmp_path, ends):
    """From generation_config.json, whose words go into `ends` once and before the tokenizer's."""
    fields = {"config": {"eos_token_id": ends}, "generation_config": {"eos_token_id": ends}}
    folder = with_fields(base, tmp_path / "base", **fields)
    model = load_model(str(folder), dtype=None, device=pick_device())
    expected = {2: [2], None: [2]}.get(ends) if not isinstance(ends, list) else ends or [2]
    assert end_token_ids(model, tiny_tokenizer(), "none") == expected
    assert takes_trees(model)[0]


@pytest.mark.parametrize("field", ["pad_token_id", "bos_token_id"])
def test_what_may_not_be_a_list_is_a_sentence(base, pairs, tmp_path, capsys, field):
    model = with_fields(base, tmp_path / "base", config={field: [2, 1]})
    assert main(["eval", str(model), "--data", str(pairs)]) == 2
    said = capsys.readouterr().err
    assert field in said and "Traceback" not in said


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
WITHOUT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def chat_tokenizer(template):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("own", "asked", "ended"),
    [
        (CHATML, "auto", True),
        (CHATML, "none", False),
        (CHATML, WITHOUT, False),
        (WITHOUT, "auto", False),
        (WITHOUT, CHATML, True),
        (None, "auto", False),
        (None, CHATML, True),
    ],
)
def test_a_template_ends_turns_though_no_response_shows_it(tmp_path, own, asked, ended):
    tokenizer = chat_tokenizer(own)
    if asked not in ("auto", "none"):
        (tmp_path / "asked.jinja").write_text(asked)
        asked = str(tmp_path / "asked.jinja")
    found = end_token_ids(tiny_model("llama"), tokenizer, asked)
    wanted = [tokenizer.convert_tokens_to_ids("<|im_end|>")] if ended else []
    assert found == [*wanted, tokenizer.eos_token_id]


@pytest.fixture
def chat_model(tmp_path):
    tokenizer = chat_tokenizer(CHATML)
    model = tiny_model("gpt2", vocab_size=len(tokenizer), max_position_embeddings=64)
    model.save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    return tmp_path / "chat"


def test_generate_judge_and_chat_stop_where_the_template_does(chat_model, tmp_path, monkeypatch):
    asked = []

    def sample(model, prompts, *, num, eos_ids, **_):
        asked.append(list(eos_ids))
        return [[np.array([5, 6])] * num for _ in prompts]

    monkeypatch.setattr("redpencil.use.completing.sample", sample)
    monkeypatch.setattr("redpencil.use.talk.sample", sample)
    model, said = str(chat_model), iter(["w5 w6", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "w5 w6"}\n{"prompt": "w7 w8"}\n')
    few = ["--max-new-tokens", "8"]
    assert main(["generate", model, "--prompt", "w5", *few]) == 0
    assert main(["chat", model, *few]) == 0
    by = ["--data", str(prompts), "--by", "redpencil.world.reward:rewards"]
    assert main(["judge", model, model, *by, *few, "--out", str(tmp_path / "judged")]) == 0
    assert len(asked) == 4
    assert all(ends[0] == len(chat_tokenizer(None)) - 1 for ends in asked)  # <|im_end|> itself


def test_a_chat_without_room_is_one_sentence(chat_model, capsys):
    for tokens in ("64", "256"):
        assert main(["chat", str(chat_model), "--max-new-tokens", tokens]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"--max-new-tokens {tokens} leaves no room" in said
        assert "64 tokens" in said


@pytest.mark.parametrize(("tokens", "said"), [(128, True), (4, False)])
def test_a_run_whose_samples_do_not_fit_says_so(base, pairs, tmp_path, capsys, tokens, said):
    options = ["--max-steps", "1", "--batch-size", "2", "--sample-prompts", "1"]
    options += ["--sample-tokens", str(tokens), "--out", str(tmp_path / "run")]
    assert main(["dpo", "--model", str(base), "--data", str(pairs), *options]) == 0
    assert ("there will be no samples and no KL" in capsys.readouterr().err) == said


def test_training_mode_is_compared_in_spite_of_a_list():
    model = tiny_model("mixtral", router_jitter_noise=0.1, eos_token_id=[2, 5])
    (said,) = [s for s in score_in_training_as_at_rest(model) if "dropout" not in s]
    assert "held in evaluation mode" in said
