"""RL runs on a tiny model: from prompts and a reward to a policy, through the same engine."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
)

import redpencil as rp
from redpencil.cli.main import main
from redpencil.engine.metrics import read_metrics

REWARD = "redpencil.world.reward:rewards"


def recipe(base, pairs, out, **options):
    settings = {
        "reward": REWARD,
        "batch_size": 8,
        "max_steps": 8,
        "passes": 2,
        "num": 3,
        "max_new_tokens": 8,
        "learning_rate": 1e-3,
        "eval_fraction": 0.2,
        "eval_every": 4,
        "checkpoint_every": 2,
        "sample_prompts": 4,
    }
    return rp.RlRecipe(model=str(base), data=str(pairs), out=str(out), **{**settings, **options})


@pytest.fixture(scope="module", params=["rloo", "gae"])
def advantage(request):
    return request.param


@pytest.fixture(scope="module")
def finished(base, pairs, tmp_path_factory, advantage) -> rp.Run:
    out = tmp_path_factory.mktemp("rl") / advantage
    return rp.train(recipe(base, pairs, out, advantage=advantage))


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_has_its_files_and_numbers(finished, advantage):
    steps = [r for r in finished.metrics if "loss" in r]
    assert [r["step"] for r in steps] == list(range(1, 9))
    for row in steps:
        assert row["objective"] == pytest.approx(row["reward"] - 0.1 * row["kl"], abs=1e-4)
        assert ("value/loss" in row) == (advantage == "gae")
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-3)  # drawn from the reference itself
    assert steps[0]["policy/clipped"] == 0
    assert steps[1]["policy/moved"] > 0  # the second pass over the same rollouts
    assert steps[0]["reward"] == steps[1]["reward"]
    looks = [r for r in finished.metrics if "eval/reward" in r]
    assert [r["step"] for r in looks] == [0, 4, 8]
    summary = finished.summary
    assert summary["reward"]["before"]["mean"] == pytest.approx(looks[0]["eval/reward"])
    assert summary["reward"]["after"]["mean"] == pytest.approx(looks[-1]["eval/reward"])
    samples = [json.loads(line) for line in (finished.path / "samples.jsonl").open()]
    assert len(samples) == 4
    assert samples[0].keys() == {
        "step", "prompt", "reference", "reference_score", "policy", "policy_score"
    }  # fmt: skip
    assert finished.report.is_file()


def test_the_model_is_the_policy_alone(finished):
    names = load_file(finished.model / "model.safetensors").keys()
    assert not [n for n in names if "value" in n]
    AutoModelForCausalLM.from_pretrained(finished.model)


def test_the_same_recipe_gives_the_same_weights(finished, base, pairs, tmp_path, advantage):
    again = rp.train(recipe(base, pairs, tmp_path / "again", advantage=advantage))
    assert same_weights(again.path, finished.path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_is_bitwise_uninterrupted(
    finished, base, pairs, tmp_path, advantage, number
):
    out = tmp_path / "killed"
    command = [sys.executable, "-c", _SLOW_RUN, *map(str, (base, pairs, out)), advantage]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.time() + 600
    while not (out / "checkpoints" / "step-2").is_dir():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.time() < deadline
        time.sleep(0.01)
    time.sleep(0.3)  # into the first of the next two passes
    process.send_signal(number)
    code = process.wait(timeout=600)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    stopped = max(int(p.name[5:]) for p in (out / "checkpoints").glob("step-*"))
    assert stopped % 2 == 0  # never between the passes over the same rollouts
    rp.train(recipe(base, pairs, out, advantage=advantage))
    assert same_weights(out, finished.path)
    steps = [r["step"] for r in read_metrics(out / "metrics.jsonl") if "loss" in r]
    assert steps == list(range(1, 9))


_SLOW_RUN = """
import sys, time
import redpencil.engine.loop as loop
from redpencil.cli.main import main
step = loop.train_step
def slow(*args, **kwargs):
    time.sleep(0.25)
    return step(*args, **kwargs)
loop.train_step = slow
base, pairs, out, advantage = sys.argv[1:]
sys.exit(main(["rl", "--model", base, "--data", pairs, "--out", out, "--batch-size", "8",
    "--max-steps", "8", "--passes", "2", "--num", "3", "--max-new-tokens", "8",
    "--learning-rate", "1e-3", "--eval-fraction", "0.2", "--eval-every", "4",
    "--checkpoint-every", "2", "--sample-prompts", "4", "--advantage", advantage,
    "--reward", "redpencil.world.reward:rewards"]))
"""


def test_adapters_have_the_policy_without_them_as_reference(base, pairs, tmp_path, advantage):
    run = rp.train(
        recipe(base, pairs, tmp_path / "lora", advantage=advantage, lora_rank=2, max_steps=4)
    )
    steps = [r for r in run.metrics if "loss" in r]
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert (run.path / "adapter" / "adapter_model.safetensors").is_file()
    saved = load_file(run.path / "adapter" / "adapter_model.safetensors")
    assert all("lora" in name for name in saved)
    AutoModelForCausalLM.from_pretrained(run.model)


def test_micro_batches_change_rounding_only(base, pairs, tmp_path, advantage):
    runs = [
        rp.train(
            recipe(base, pairs, tmp_path / str(n), advantage=advantage, max_tokens=n, max_steps=2)
        )
        for n in (60, 2000)
    ]
    a, b = (load_file(run.model / "model.safetensors") for run in runs)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=2e-4)


def test_a_reward_is_learned(base, pairs, tmp_path, advantage):
    """Answers with much of the letter e are paid."""
    run = rp.train(
        recipe(
            base,
            pairs,
            tmp_path / "e",
            advantage=advantage,
            reward="toy_rewards:share_of_e",
            beta=0.01,
            num=4,
            batch_size=16,
            max_steps=100,
            eval_every=100,
            checkpoint_every=100,
            sample_prompts=8,
            learning_rate=1e-2,
        )
    )
    before, after = (r for r in run.metrics if "eval/reward" in r)
    assert after["eval/reward"] > before["eval/reward"] + 0.5


def test_a_step_is_exported_without_the_critic(finished, tmp_path):
    assert main(["export", str(finished.path), str(tmp_path / "out"), "--step", "6"]) == 0
    assert "value_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_eval_wants_pairs_by_name(finished, capsys):
    assert main(["eval", str(finished.path)]) == 2
    assert "is an RL run, of prompts; name pairs by --data" in capsys.readouterr().err


def save_reward_model(base, folder):
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=24,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_rollouts_must_fit_the_reward_model(base, pairs, tmp_path):
    save_reward_model(base, tmp_path / "reward")
    options = {"reward": str(tmp_path / "reward"), "max_steps": 2}
    with pytest.raises(rp.RecipeError, match=r"max-new-tokens 24 is more than .* 24 tokens"):
        rp.train(recipe(base, pairs, tmp_path / "long", max_new_tokens=24, **options))
    assert rp.train(recipe(base, pairs, tmp_path / "fits", **options)).summary["steps"] == 2


def test_a_reward_model_that_changed_since_is_refused(base, pairs, tmp_path):
    save_reward_model(base, tmp_path / "reward")
    made = recipe(base, pairs, tmp_path / "out", reward=str(tmp_path / "reward"), max_steps=2)
    run = rp.train(made)
    (run.path / "summary.json").unlink()  # as if it had been stopped just before the end
    save_reward_model(base, tmp_path / "reward")  # other random weights
    with pytest.raises(rp.RunFolderError, match=r"the reward of .* changed since the run began"):
        rp.train(made)


def test_nothing_held_out_is_not_measured_on_training_prompts(base, pairs, tmp_path):
    run = rp.train(recipe(base, pairs, tmp_path / "none", eval_fraction=0, max_steps=4))
    assert not [r for r in run.metrics if "eval/reward" in r]
    assert "reward" not in run.summary
    assert [r["epoch"] for r in run.metrics] == [0.0, 0.2, 0.2, 0.4]


def test_other_reference_answers_are_another_run(base, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    for answer in ("7", "8"):
        rows = [{"prompt": p, "answer": answer} for p in ("The plot", "The cast", "The music")]
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = recipe(base, prompts, tmp_path / "out", reward="answer", max_steps=2)
        if answer == "7":
            rp.train(made)
            (tmp_path / "out" / "summary.json").unlink()
        else:
            with pytest.raises(rp.RunFolderError, match=r"the data of .* changed"):
                rp.train(made)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--passes", "2", "--eval-every", "3"], "--eval-every 3 must be a multiple of passes (2)"),
        (["--num", "1"], "num must be above 1"),
        (["--gae-lambda", "0.9"], "--gae-lambda does nothing with advantage rloo"),
        (["--reward", "redpencil.world.reward:reward"], "rewards"),
        (["--reward", "answer"], 'pairs.jsonl, row 1: the reward "answer" needs a column "answer"'),
        (["--max-new-tokens", "128"], "leaves no room for a prompt"),
        (["--advantage", "ppo"], "rloo"),
    ],
)
def test_mistakes_are_one_sentence(base, pairs, tmp_path, capsys, options, sentence):
    out = tmp_path / "bad"
    given = ["--model", base, "--data", pairs, "--out", out]
    given += [] if "--reward" in options else ["--reward", REWARD]
    given += [] if "--max-new-tokens" in options else ["--max-new-tokens", "16"]
    given += options
    assert main(["rl", *map(str, given)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert not out.exists()
