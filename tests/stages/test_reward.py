"""Whole reward-model runs on tiny models: trained, resumed, saved, reloaded, measured."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

import redpencil as rp
from redpencil.cli.main import main
from redpencil.data.tokenize import prompt_ids
from redpencil.engine.metrics import read_metrics
from redpencil.recipes.stages import RewardRecipe
from redpencil.rollout.reward_model import RewardModel

PROMPT = "The plot"
STEPS = 20
KEPT_EVERY = 2
RESPONSES = [" was dull.", " was superb, and the acting was superb too.", " was", " is"]


def recipe(base, pairs, out, **options):
    settings = {"batch_size": 8, "epochs": 5, "learning_rate": 3e-3, "eval_fraction": 0.2}
    return RewardRecipe(model=str(base), data=str(pairs), out=str(out), **{**settings, **options})


@pytest.fixture(scope="session")
def finished(base, pairs, tmp_path_factory) -> rp.Run:
    return rp.train(recipe(base, pairs, tmp_path_factory.mktemp("run") / "reward"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def plain_rewards(folder: Path, prompt: str, responses: list[str]) -> list[float]:
    """As anyone would: plain transformers, the tokenizer's own padding, several in a batch."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    start = prompt_ids(prompt, tokenizer).tolist()
    rows = [
        [*start, *tokenizer(r, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        for r in responses
    ]
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits[:, 0].tolist()


def test_training_orders_pairs_and_lowers_the_loss(finished):
    evals = [r for r in read_metrics(finished.path / "metrics.jsonl") if "eval/loss" in r]
    assert evals[0]["step"] == 0
    assert evals[0]["eval/loss"] == pytest.approx(math.log(2), abs=0.1)  # a head of noise
    assert min(e["eval/loss"] for e in evals) < evals[0]["eval/loss"] - 0.02
    losses = [r["loss"] for r in finished.metrics if "loss" in r]
    assert losses[-1] < 0.5
    low, high = finished.summary["accuracy"]["interval"]
    assert low < finished.summary["accuracy"]["value"] < high


def test_a_run_folder_has_what_a_reward_model_has(finished):
    names = {p.name for p in finished.path.iterdir()}
    assert names >= {
        "recipe.yaml", "metrics.jsonl", "pairs.jsonl", "checkpoints", "model", "report.html",
        "environment.json", "data.json", "dropped.jsonl", "summary.json",
    }  # fmt: skip
    assert "samples.jsonl" not in names
    rows = [json.loads(line) for line in (finished.path / "pairs.jsonl").open()]
    rows = [r for r in rows if r["split"] == "eval"]
    assert {r["step"] for r in rows} == {0, STEPS}
    for row in rows:
        assert row["margin"] == pytest.approx(row["reward_chosen"] - row["reward_rejected"])
        assert row["weight"] == pytest.approx(1 / (1 + math.exp(row["margin"])))
        assert row["length_chosen"] > 0
        assert "logp_chosen" not in row
    summary = finished.summary
    bins = summary["calibration"]["bins"]
    assert sum(b["pairs"] for b in bins) == summary["accuracy"]["pairs"] == len(rows) // 2
    assert -1 <= summary["length_correlation"] <= 1
    assert "kl" not in summary


def test_reloaded_by_plain_transformers_the_rewards_are_ours(finished):
    reward = RewardModel.load(str(finished.path))
    assert reward.scorer.name == "tree"
    ours = reward([PROMPT] * 4, RESPONSES, [{}] * 4)
    theirs = plain_rewards(finished.model, PROMPT, RESPONSES)
    assert ours == pytest.approx([r - reward.mean for r in theirs], abs=1e-5)
    assert len({round(r, 5) for r in ours}) == 4
    assert reward([], [], []) == []


def test_order_and_company_do_not_change_a_reward(finished):
    reward = RewardModel.load(str(finished.model))
    prompts = [PROMPT, "I", PROMPT, "I"]
    together = reward(prompts, RESPONSES, [{}] * 4)
    alone = [reward([p], [r], [{}])[0] for p, r in zip(prompts, RESPONSES, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)


def test_the_rewards_of_the_training_data_have_mean_zero(finished, pairs):
    reward = RewardModel.load(str(finished.path))
    centre = finished.summary["centre"]
    assert (reward.mean, reward.std) == (centre["mean"], centre["std"])
    config = json.loads((finished.model / "config.json").read_text())
    assert config["reward_mean"] == centre["mean"]
    written = map(json.loads, (finished.path / "pairs.jsonl").open())
    held_out = {r["prompt"] for r in written if r["split"] == "eval"}
    rows = [json.loads(line) for line in pairs.open()]
    rows = [r for r in rows if r["prompt"] not in held_out]
    flat = [(r["prompt"], text) for r in rows for text in r["responses"]]
    values = reward([p for p, _ in flat], [t for _, t in flat], [{}] * len(flat))
    assert len(values) == centre["responses"]
    assert np.mean(values) == pytest.approx(0, abs=1e-5)
    assert np.std(values) == pytest.approx(centre["std"], rel=1e-4)


def test_stopped_and_resumed_is_bitwise_uninterrupted(finished, base, pairs, tmp_path):
    mine = recipe(base, pairs, tmp_path / "run")
    rp.train(mine)
    (tmp_path / "run" / "summary.json").unlink()
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.rmtree(checkpoints / f"step-{STEPS}")  # as if stopped after the step before
    assert (checkpoints / f"step-{STEPS - KEPT_EVERY}").is_dir()
    rp.train(mine)
    assert same_weights(tmp_path / "run", finished.path)


def test_micro_batches_and_the_oracle_change_rounding_only(finished, base, pairs, tmp_path):
    run = rp.train(recipe(base, pairs, tmp_path / "run", max_tokens=130, scoring="oracle"))
    ours = [r["loss"] for r in finished.metrics if "loss" in r]
    assert [r["loss"] for r in run.metrics if "loss" in r] == pytest.approx(ours, rel=1e-3)


def test_with_adapters_the_head_is_trained_and_saved(base, pairs, tmp_path):
    run = rp.train(recipe(base, pairs, tmp_path / "lora", lora_rank=2, learning_rate=1e-2))
    adapter = load_file(run.path / "adapter" / "adapter_model.safetensors")
    head = next(name for name in adapter if name.endswith("score.weight"))
    merged = weights(run.path)
    assert torch.equal(adapter[head], merged["score.weight"])
    untrained = rp.train(recipe(base, pairs, tmp_path / "short", max_steps=1, learning_rate=1e-9))
    assert not torch.allclose(merged["score.weight"], weights(untrained.path)["score.weight"])
    assert not any("lora" in name for name in merged)
    ours = RewardModel.load(str(run.path))
    theirs = plain_rewards(run.model, PROMPT, RESPONSES)
    assert ours([PROMPT] * 4, RESPONSES, [{}] * 4) == pytest.approx(
        [r - ours.mean for r in theirs], abs=1e-5
    )
    by_adapter = RewardModel.load(str(run.path / "adapter"))
    uncentred = by_adapter([PROMPT] * 4, RESPONSES, [{}] * 4)
    assert uncentred == pytest.approx(theirs, abs=1e-4)


@pytest.fixture
def padded_by_its_end(base, tmp_path) -> Path:
    """A GPT-2 whose padding token is its end token, as it is with many models."""
    folder = tmp_path / "gpt2"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = tokenizer.get_vocab()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(vocabulary),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_where_padding_is_the_end_token_another_is_taken(
    padded_by_its_end, pairs, tmp_path, capsys
):
    run = rp.train(recipe(padded_by_its_end, pairs, tmp_path / "run", epochs=1))
    said = capsys.readouterr().out
    assert said.count("padding   padding token") == 1
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    model = AutoModelForSequenceClassification.from_pretrained(run.model)
    assert tokenizer.pad_token_id == model.config.pad_token_id != tokenizer.eos_token_id
    assert model.get_input_embeddings().weight.shape[0] > tokenizer.pad_token_id
    ours = RewardModel.load(str(run.path))
    theirs = plain_rewards(run.model, PROMPT, RESPONSES)
    assert ours([PROMPT] * 4, RESPONSES, [{}] * 4) == pytest.approx(
        [r - ours.mean for r in theirs], abs=1e-5
    )


@pytest.fixture
def read_before_its_end(padded_by_its_end, tmp_path) -> Path:
    """A reward model that was trained by others, with its end token for padding."""
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(padded_by_its_end, num_labels=1)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(padded_by_its_end).save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_a_reward_models_own_padding_is_kept_in_use_training_and_saving(
    read_before_its_end, pairs, tmp_path, capsys
):
    theirs = plain_rewards(read_before_its_end, PROMPT, RESPONSES)
    reward = RewardModel.load(str(read_before_its_end))
    assert reward([PROMPT] * 4, RESPONSES, [{}] * 4) == pytest.approx(theirs, abs=1e-5)
    lines = pairs.read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:30]))
    (tmp_path / "eval.jsonl").write_text("".join(lines[30:]))
    command = ["eval", read_before_its_end, "--data", tmp_path / "eval.jsonl", "--json"]
    assert main([str(part) for part in command]) == 0
    loss = json.loads(capsys.readouterr().out.splitlines()[-1])["loss"]
    run = rp.train(
        RewardRecipe(
            model=str(read_before_its_end),
            data=str(tmp_path / "train.jsonl"),
            eval_data=str(tmp_path / "eval.jsonl"),
            out=str(tmp_path / "run"),
            learning_rate=1e-2,
            max_steps=3,
        )
    )
    assert "rewards are read before the end token" in capsys.readouterr().out
    assert run.summary["eval_before"]["loss"] == pytest.approx(loss, abs=1e-5)
    assert run.summary["eval_after"]["loss"] != pytest.approx(loss, abs=1e-3)
    trained = RewardModel.load(str(run.path))
    assert trained([PROMPT] * 4, RESPONSES, [{}] * 4) == pytest.approx(
        [r - trained.mean for r in plain_rewards(run.model, PROMPT, RESPONSES)], abs=1e-5
    )
    assert main(["export", str(run.path), str(tmp_path / "out"), "--step", "3"]) == 0
    assert plain_rewards(tmp_path / "out", PROMPT, RESPONSES) == pytest.approx(
        plain_rewards(run.model, PROMPT, RESPONSES), abs=1e-5
    )


def test_a_reward_adapter_is_read_where_it_was_trained(padded_by_its_end, pairs, tmp_path, capsys):
    """Its base's padding token may be an end token, which the run's is not."""
    run = rp.train(recipe(padded_by_its_end, pairs, tmp_path / "run", lora_rank=2, epochs=1))
    whole, adapter = RewardModel.load(str(run.path)), RewardModel.load(str(run.path / "adapter"))
    expected = whole([PROMPT] * 4, RESPONSES, [{}] * 4)
    assert adapter([PROMPT] * 4, RESPONSES, [{}] * 4) == pytest.approx(
        [r + whole.mean for r in expected], abs=1e-4
    )
    results = []
    for folder in (run.model, run.path / "adapter"):
        assert main(["eval", str(folder), "--data", str(pairs), "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert results[0]["accuracy"] == results[1]["accuracy"]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-5)


@pytest.fixture
def encoder(base, tmp_path) -> Path:
    """A BERT with the words of the review world: [CLS] text [SEP], no end token."""
    folder = tmp_path / "bert"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    end = config.pop("eos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "sep_token": end}))
    size = len(AutoTokenizer.from_pretrained(folder))
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
        ),
        add_pooling_layer=False,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("rank", [0, 2])
def test_an_encoder_is_trained_by_its_padded_forward(encoder, pairs, tmp_path, capsys, rank):
    run = rp.train(recipe(encoder, pairs, tmp_path / "run", epochs=4, lora_rank=rank))
    assert "bert is an encoder" in capsys.readouterr().err
    evals = [r["eval/loss"] for r in run.metrics if "eval/loss" in r]
    assert evals[-1] < evals[0]
    ours = RewardModel.load(str(run.path))
    assert ours.scorer.name == "oracle"
    theirs = plain_rewards(run.model, PROMPT, RESPONSES)
    assert ours([PROMPT] * 4, RESPONSES, [{}] * 4) == pytest.approx(
        [r - ours.mean for r in theirs], abs=1e-5
    )


def test_a_reference_sets_where_zero_lies(base, pairs, tmp_path):
    run = rp.train(recipe(base, pairs, tmp_path / "run", reference=str(base), max_steps=2))
    centre = run.summary["centre"]
    assert centre["source"] == f"completions drawn from {base}"
    assert centre["responses"] == json.loads((run.path / "data.json").read_text())["train_prompts"]
    reward = RewardModel.load(str(run.path))
    assert reward.mean == pytest.approx(centre["mean"])


def test_eval_measures_a_reward_model(finished, pairs, capsys):
    assert main(["eval", str(finished.path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    summary = finished.summary
    assert result["accuracy"] == pytest.approx(summary["accuracy"]["value"])
    assert result["loss"] == pytest.approx(summary["eval_after"]["loss"], rel=1e-4)
    assert result["calibration"]["expected_error"] == pytest.approx(
        summary["calibration"]["expected_error"], abs=1e-4
    )
    assert main(["eval", str(finished.model), "--data", str(pairs)]) == 0
    said = capsys.readouterr().out
    assert "by reward" in said
    assert "calibration error" in said


def test_export_takes_the_best_step(finished, tmp_path):
    assert main(["export", str(finished.path), str(tmp_path / "out"), "--step", str(STEPS)]) == 0
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(exported[k], v) for k, v in weights(finished.path).items())
    assert plain_rewards(tmp_path / "out", PROMPT, RESPONSES) == pytest.approx(
        plain_rewards(finished.model, PROMPT, RESPONSES)
    )


def test_mistakes_are_one_sentence(finished, base, pairs, tmp_path, capsys):
    def complaint(*command) -> str:
        assert main([str(part) for part in command]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert not (tmp_path / "run").exists()
        return said

    out = ("--out", tmp_path / "run")
    data = ("--data", pairs)
    said = complaint("dpo", "--model", finished.model, *data, *out)
    assert "is not a language model: it is a reward model" in said
    said = complaint("reward", "--model", finished.path, *data, *out)
    assert f"whose model is {finished.model}" in said
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"prompt": "The plot", "completion": " was dull."}\n')
    assert "texts.jsonl" in complaint("reward", "--model", base, "--data", texts, *out)
    said = complaint("reward", "--model", base, *data, *out, "--reference", finished.model)
    assert "is not a language model" in said
    assert "does not know '--beta'" in complaint("reward", "--model", base, *data, *out, "--beta=1")
    assert "--sample-prompts" in complaint(
        "reward", "--model", base, *data, *out, "--sample-prompts=1"
    )
    assert "--beta does nothing" in complaint("eval", finished.path, "--beta", "0.1")
    many = tmp_path / "many"
    shutil.copytree(finished.model, many)
    config = json.loads((many / "config.json").read_text())
    labels = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    (many / "config.json").write_text(json.dumps({**config, **labels}))
    assert "has one" in complaint("reward", "--model", many, *data, *out)
    with pytest.raises(rp.ModelError, match="is not a reward model"):
        RewardModel.load(str(base))


def test_training_goes_on_from_a_reward_model(finished, pairs, tmp_path):
    run = rp.train(recipe(finished.model, pairs, tmp_path / "run", max_steps=1))
    assert run.summary["eval_before"]["loss"] == pytest.approx(
        finished.summary["eval_after"]["loss"], abs=1e-5
    )


def test_a_plan(base, pairs, capsys):
    command = ["plan", "--stage", "reward", "--model", base, "--data", pairs, "--json", "--no-time"]
    assert main([str(part) for part in command]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["scoring"] == "tree"
    assert result["memory"]["fits"] in (True, None)
