"""Runs that begin on an adapter: all weights train, and what is saved stands on its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import redpencil as rp
from redpencil.cli.main import main
from redpencil.rollout.reward_model import RewardModel
from tiny_runs import same_weights, weights

SMALL = ["--batch-size", "8", "--max-steps", "4", "--eval-fraction", "0.2"]
STAGES = {
    "dpo": ["--sample-prompts", "0"],
    "sft": ["--sample-prompts", "0"],
    "reward": [],
    "rl": ["--reward", "toy_rewards:longer", "--max-new-tokens", "8"],
}


@pytest.fixture(scope="module")
def first(base, tmp_path_factory) -> Path:
    """An adapter that changes its base much."""
    folder = tmp_path_factory.mktemp("first") / "adapter"
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


def run_of(stage, model, data, out, *options) -> Path:
    command = [stage, "--model", model, "--data", data, "--out", out, *SMALL, *STAGES[stage]]
    assert main([str(part) for part in (*command, *options)]) == 0
    return Path(out)


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[3, 9, 4, 30, 5]])).logits


@pytest.mark.parametrize("stage", STAGES)
def test_all_weights_train_from_an_adapter(stage, first, base, pairs, tmp_path):
    run = run_of(stage, first, pairs, tmp_path / "run", "--learning-rate", "1e-3")
    begun = rp.load(str(first)).model.state_dict()
    trained = weights(run)
    moved = {name for name, w in begun.items() if name in trained and not w.equal(trained[name])}
    assert {name for name in begun if "layers" in name} <= moved
    change = max(float((begun[n] - trained[n]).abs().max()) for n in moved)
    assert change < 0.05  # from the adapter's weights, not from those of its base


@pytest.mark.parametrize("stage", STAGES)
def test_an_adapter_that_a_run_saves_is_its_model_with_the_base_it_names(
    stage, first, base, pairs, tmp_path
):
    run = run_of(
        stage, first, pairs, tmp_path / "run", "--lora-rank", "2", "--learning-rate", "0.01"
    )
    adapter = run / "adapter"
    named = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str((run / "base").resolve())
    auto = AutoModelForSequenceClassification if stage == "reward" else AutoModelForCausalLM
    whole = logits(auto.from_pretrained(run / "model"))
    plain = logits(PeftModel.from_pretrained(auto.from_pretrained(named), adapter))
    torch.testing.assert_close(plain, whole, rtol=1e-4, atol=1e-4)
    if stage == "reward":
        ours = RewardModel.load(str(adapter)).model
    else:
        alone = logits(PeftModel.from_pretrained(auto.from_pretrained(base), adapter))
        assert (alone - whole).abs().max() > 0.1  # what the first base would have made of it
        ours = rp.load(str(adapter)).model
    torch.testing.assert_close(logits(ours), whole, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(run / "base").get_vocab()


def test_a_run_on_an_adapter_goes_on_and_is_exported_as_it_was(first, pairs, tmp_path):
    options = ("--lora-rank", "2", "--checkpoint-every", "1", "--learning-rate", "0.01")
    run = run_of("dpo", first, pairs, tmp_path / "run", *options)
    shutil.copytree(run, tmp_path / "stopped")
    (tmp_path / "stopped" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "step-4")
    again = run_of("dpo", first, pairs, tmp_path / "stopped", *options)
    assert same_weights(run, again)
    assert main(["export", str(run), str(tmp_path / "out"), "--step", "4"]) == 0
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    whole = logits(AutoModelForCausalLM.from_pretrained(run / "model"))
    torch.testing.assert_close(logits(exported), whole, rtol=1e-4, atol=1e-4)


def test_a_base_in_a_folder_is_named_from_the_root(base, pairs, tmp_path, monkeypatch):
    """The adapter is found wherever the next program is started."""
    monkeypatch.chdir(base.parent)
    run = run_of("dpo", base.name, pairs, tmp_path / "run", "--lora-rank", "2")
    monkeypatch.chdir(tmp_path)
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base.resolve())
    assert not (run / "base").exists()
    rp.load("run/adapter")
