"""What ends a text may be several tokens (Llama 3, Gemma 3, GLM 4), wherever a model says so."""

import json
import shutil

import pytest

from redpencil.cli.main import main
from redpencil.fit.fitting import end_token_ids
from redpencil.models.load import load_model, pick_device
from redpencil.models.probe import takes_trees
from zoo import tiny_tokenizer

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
    assert end_token_ids(model, tiny_tokenizer(), []) == expected
    assert takes_trees(model)[0]


@pytest.mark.parametrize("field", ["pad_token_id", "bos_token_id"])
def test_what_may_not_be_a_list_is_a_sentence(base, pairs, tmp_path, capsys, field):
    model = with_fields(base, tmp_path / "base", config={field: [2, 1]})
    assert main(["eval", str(model), "--data", str(pairs)]) == 2
    said = capsys.readouterr().err
    assert field in said and "Traceback" not in said
