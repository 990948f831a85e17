"""Whole runs on a tiny model: from a file of pairs to a model, and everything on the way."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import redpencil as rp
from redpencil.cli.main import main
from redpencil.engine.metrics import read_metrics
from redpencil.folders.run import RunFolder
from redpencil.scores.cache import ReferenceCache
from redpencil.world.pairs import sft_rows
from tiny_runs import recipe, same_weights, weights

LN2 = math.log(2)


@pytest.fixture(scope="session")
def finished(base, pairs, tmp_path_factory) -> rp.Run:
    return rp.train(recipe(base, pairs, tmp_path_factory.mktemp("run") / "dpo"))


def evaluations(run: Path) -> list[dict]:
    return [r for r in read_metrics(run / "metrics.jsonl") if "eval/loss" in r]


def test_step_zero_costs_ln_2_and_training_lowers_it(finished):
    before, *_, after = evaluations(finished.path)
    assert before["step"] == 0
    assert before["eval/loss"] == pytest.approx(LN2, abs=1e-6)
    assert before["eval/rewards/accuracies"] == 0.5  # all ties, which count one half
    assert before["eval/kl"] == pytest.approx(0, abs=1e-5)
    first = next(r for r in finished.metrics if r["step"] == 1)
    assert first["loss"] == pytest.approx(LN2, abs=1e-6)
    assert after["step"] == 8
    train = [r["loss"] for r in finished.metrics if "loss" in r]
    assert train[-1] < LN2


def test_a_run_folder_has_its_files(finished):
    names = {p.name for p in finished.path.iterdir()}
    assert names >= {
        "recipe.yaml", "metrics.jsonl", "pairs.jsonl", "samples.jsonl", "checkpoints", "model",
        "report.html", "environment.json", "data.json", "dropped.jsonl", "summary.json",
        "tensorboard",
    }  # fmt: skip
    assert not [n for n in names if n.endswith(".partial")]
    rows = [json.loads(line) for line in (finished.path / "pairs.jsonl").open()]
    assert {r["step"] for r in rows if r["split"] == "eval"} == {0, 8}
    for row in rows:
        assert row["margin"] == pytest.approx(row["reward_chosen"] - row["reward_rejected"])
        assert row["weight"] == pytest.approx(1 / (1 + math.exp(row["margin"])))
        gain = row["logp_chosen"] - row["ref_logp_chosen"]
        assert row["reward_chosen"] == pytest.approx(0.1 * gain, abs=1e-5)
    samples = [json.loads(line) for line in (finished.path / "samples.jsonl").open()]
    assert [set(s) for s in samples] == [{"step", "prompt", "reference", "policy"}] * 2


def test_no_prompt_is_on_both_sides(finished):
    data = json.loads((finished.path / "data.json").read_text())
    assert (data["train_prompts"], data["eval_prompts"]) == (32, 8)


def test_the_model_loads_with_plain_transformers(finished):
    model = AutoModelForCausalLM.from_pretrained(finished.model)
    tokenizer = AutoTokenizer.from_pretrained(finished.model)
    assert "redpencil" not in (finished.model / "config.json").read_text()
    ids = tokenizer("The plot", return_tensors="pt").input_ids
    ours = rp.load(finished.path)
    torch.testing.assert_close(model(ids).logits, ours.model(ids).logits)


def test_a_finished_run_is_not_redone(finished, base, pairs):
    stamp = (finished.path / "summary.json").stat().st_mtime_ns
    rp.train(recipe(base, pairs, finished.path))
    assert (finished.path / "summary.json").stat().st_mtime_ns == stamp


def test_the_same_recipe_gives_the_same_weights(finished, base, pairs, tmp_path):
    again = rp.train(recipe(base, pairs, tmp_path / "again"))
    assert same_weights(again.path, finished.path)


def test_micro_batches_change_rounding_only(finished, base, pairs, tmp_path):
    small = rp.train(recipe(base, pairs, tmp_path / "small", max_tokens=130))
    for name, weight in weights(small.path).items():
        torch.testing.assert_close(weight, weights(finished.path)[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_and_resumed_is_bitwise_uninterrupted(finished, base, pairs, tmp_path, number):
    out = tmp_path / "killed"
    command = [sys.executable, "-c", _SLOW_RUN, *map(str, (base, pairs, out))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.time() + 600
    while not (out / "checkpoints" / "step-3").is_dir():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    code = process.wait(timeout=600)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert not (out / "summary.json").exists()
    rp.train(recipe(base, pairs, out))
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
base, pairs, out = sys.argv[1:]
sys.exit(main(["dpo", "--model", base, "--data", pairs, "--out", out, "--batch-size", "8",
    "--epochs", "2", "--learning-rate", "1e-3", "--eval-fraction", "0.2", "--sample-prompts", "2",
    "--sample-tokens", "8", "--no-cache"]))
"""


def test_another_recipe_on_the_same_folder_is_refused(finished, base, pairs):
    with pytest.raises(rp.RunFolderError, match=r"beta was 0.1 and is now 0.2"):
        rp.train(recipe(base, pairs, finished.path, beta=0.2))


def test_data_that_changed_since_is_refused(base, pairs, tmp_path):
    mine = tmp_path / "pairs.jsonl"
    mine.write_text(pairs.read_text())
    out = tmp_path / "run"
    rp.train(recipe(base, mine, out, max_steps=2))
    (out / "summary.json").unlink()  # as if it had been killed before the end
    mine.write_text("".join(pairs.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(rp.RunFolderError, match="changed since the run began"):
        rp.train(recipe(base, mine, out, max_steps=2))


def test_adapters_train_and_the_model_is_merged(base, pairs, tmp_path):
    run = rp.train(recipe(base, pairs, tmp_path / "lora", lora_rank=4, learning_rate=1e-2))
    before, *_, after = evaluations(run.path)
    assert before["eval/loss"] == pytest.approx(LN2, abs=1e-6)
    assert after["eval/kl"] != 0
    assert (run.path / "adapter" / "adapter_model.safetensors").is_file()
    checkpoint = load_file(run.path / "checkpoints" / "step-8" / "weights.safetensors")
    assert all("lora_" in name for name in checkpoint)
    assert weights(run.path).keys() == load_file(base / "model.safetensors").keys()
    AutoModelForCausalLM.from_pretrained(run.model)


def test_activation_checkpointing_gives_the_same_weights(finished, base, pairs, tmp_path):
    run = rp.train(recipe(base, pairs, tmp_path / "ac", activation_checkpointing=True))
    for name, weight in weights(run.path).items():
        torch.testing.assert_close(weight, weights(finished.path)[name], rtol=1e-3, atol=2e-4)


def test_the_oracle_trains_the_same_model(finished, base, pairs, tmp_path):
    run = rp.train(recipe(base, pairs, tmp_path / "oracle", scoring="oracle"))
    trees = [r["loss"] for r in finished.metrics if "loss" in r]
    oracle = [r["loss"] for r in run.metrics if "loss" in r]
    assert oracle == pytest.approx(trees, rel=1e-3)


@pytest.mark.parametrize(("loss", "start"), [("ipo", 25.0), ("hinge", 1.0)])
def test_other_objectives_run_and_begin_where_they_must(base, pairs, tmp_path, loss, start):
    run = rp.train(recipe(base, pairs, tmp_path / loss, loss=loss, max_steps=2))
    assert evaluations(run.path)[0]["eval/loss"] == pytest.approx(start, rel=1e-5)


def test_preferred_ft_fits_the_reference_first(base, pairs, tmp_path):
    run = rp.train(recipe(base, pairs, tmp_path / "pft", reference="preferred-ft", max_steps=3))
    fitted = run.path / "preferred-ft"
    assert evaluations(run.path)[0]["eval/loss"] == pytest.approx(LN2, abs=1e-6)
    assert (fitted / "model" / "config.json").is_file()
    base_weights = load_file(base / "model.safetensors")
    assert not torch.equal(weights(fitted)["lm_head.weight"], base_weights["lm_head.weight"])
    rows = read_metrics(fitted / "metrics.jsonl")
    assert "eval/perplexity" in rows[0]


def test_stopped_while_the_reference_was_fitted(base, pairs, tmp_path, monkeypatch):
    mine = recipe(base, pairs, tmp_path / "pft", reference="preferred-ft", max_steps=3)
    with monkeypatch.context() as patched:
        patched.setattr("redpencil.stages.saving.Product.write", _stopped)
        with pytest.raises(KeyboardInterrupt):
            rp.train(mine)
    assert {p.name for p in mine_files(mine)} == {"preferred-ft"}
    rp.train(mine)
    again = recipe(base, pairs, tmp_path / "whole", reference="preferred-ft", max_steps=3)
    assert same_weights(Path(mine.out), rp.train(again).path)


def _stopped(*args):
    raise KeyboardInterrupt


def mine_files(made):
    return list(Path(made.out).iterdir())


def test_another_reference_model(base, pairs, finished, tmp_path):
    run = rp.train(
        recipe(base, pairs, tmp_path / "ref", reference=str(finished.model), max_steps=2)
    )
    assert evaluations(run.path)[0]["eval/loss"] != pytest.approx(LN2, abs=1e-4)


def test_the_cache_serves_another_beta(base, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("REDPENCIL_CACHE", str(tmp_path / "cache"))
    one = rp.train(recipe(base, pairs, tmp_path / "one", cache=True, max_steps=1))
    assert [p for p in (tmp_path / "cache" / "reference").rglob("*") if p.is_file()]
    monkeypatch.setattr("redpencil.scores.reference.numbered", None)  # what is computed
    monkeypatch.setattr(ReferenceCache, "add", None)
    two = rp.train(recipe(base, pairs, tmp_path / "two", cache=True, max_steps=1, beta=0.5, seed=3))
    assert len([p for p in (tmp_path / "cache" / "reference").rglob("*") if p.is_file()]) == 1
    assert evaluations(two.path)[0]["eval/loss"] == pytest.approx(LN2, abs=1e-6)
    assert one.path != two.path


def test_logps_by_tree_and_by_oracle_agree(base):
    loaded = rp.load(base)
    rows = [
        {
            "prompt": "The plot",
            "responses": [" was dull.", " was superb.", " was"],
            "scores": [0, 2, 1],
        },
        {"prompt": "I", "chosen": " loved it.", "rejected": " hated it."},
    ]
    tree = rp.logps(loaded, rows[:1]) + rp.logps(loaded, rows[1:])
    oracle = rp.logps(loaded, rows[:1], method="oracle") + rp.logps(loaded, rows[1:], "oracle")
    assert [len(r) for r in tree] == [3, 2]
    for ours, theirs in zip(tree, oracle, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    ids = loaded.tokenizer("The plot", return_tensors="pt").input_ids
    more = loaded.tokenizer(" was dull.", add_special_tokens=False).input_ids
    path = torch.tensor([[*ids[0].tolist(), *more, loaded.tokenizer.eos_token_id]])
    with torch.no_grad():
        logits = loaded.model(path).logits.log_softmax(-1)
    by_hand = sum(logits[0, i - 1, path[0, i]].item() for i in range(ids.shape[1], path.shape[1]))
    assert tree[0][0] == pytest.approx(by_hand, rel=1e-5)
    with pytest.raises(rp.RecipeError, match='did you mean "tree"'):
        rp.logps(loaded, rows[1:], "tre")


def test_two_stages_from_one_file(base, pairs, tmp_path, capsys):
    sft = tmp_path / "sft.jsonl"
    sft.write_text("".join(json.dumps(row) + "\n" for row in sft_rows(60, 0)))
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"out: {tmp_path}/two\nmodel: {base}\nsample_prompts: 2\nsample_tokens: 8\nbatch_size: 8\n"
        f"stages:\n  - {{stage: sft, data: {sft}, max_steps: 3}}\n"
        f"  - {{stage: dpo, data: {pairs}, max_steps: 2, cache: false}}\n"
    )
    assert main(["run", str(file), "dpo.beta=0.2"]) == 0
    assert (tmp_path / "two" / "2-dpo" / "model" / "config.json").is_file()
    assert "beta: 0.2" in (tmp_path / "two" / "2-dpo" / "recipe.yaml").read_text()
    capsys.readouterr()
    assert main(["run", str(file), "dpo.beta=0.2"]) == 0
    assert capsys.readouterr().out.count("is finished; nothing to do") == 2


def test_eval_generate_export_and_chat(finished, base, pairs, tmp_path, capsys, monkeypatch):
    assert main(["eval", str(finished.path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    last = evaluations(finished.path)[-1]
    assert result["accuracy"] == pytest.approx(last["eval/rewards/accuracies"])
    assert result["margin"] == pytest.approx(last["eval/rewards/margins"], abs=1e-5)
    assert main(["eval", str(base), "--data", str(pairs)]) == 0
    assert "by log-probability" in capsys.readouterr().out
    assert main(["generate", str(finished.path), "--prompt", "The plot", "--num", "2"]) == 0
    assert capsys.readouterr().out.count("→") == 2
    out = tmp_path / "out.jsonl"
    command = ["generate", str(base), "--data", str(pairs), "--out", str(out)]
    assert main([*command, "--max-new-tokens", "4"]) == 0
    assert len(out.read_text().splitlines()) == 40
    assert main(["export", str(finished.path), str(tmp_path / "exported"), "--step", "8"]) == 0
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    assert all(torch.equal(exported[k], v) for k, v in weights(finished.path).items())
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "base_model" not in card and str(tmp_path) not in card  # of nobody else's disk
    assert 'from_pretrained("exported")' in card and "held-out prompts" in card
    lines = iter(["The plot", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    capsys.readouterr()
    assert main(["chat", str(finished.path), "--max-new-tokens", "4"]) == 0
    shown = capsys.readouterr().out
    assert "policy" in shown
    assert "reference" in shown


@pytest.mark.parametrize("every", ["1", "100"])
def test_training_that_explodes_exits_3_and_names_rows(base, pairs, tmp_path, capsys, every):
    out = tmp_path / "run"
    command = ["dpo", "--model", base, "--data", pairs, "--out", out, "--learning-rate", "1e30"]
    command += ["--eval-every", every, "--checkpoint-every", every, "--sample-tokens", "4"]
    assert main([str(part) for part in [*command, "--batch-size", 8, "--no-cache"]]) == 3
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "non-finite" in said or "not finite" in said or "loss is nan" in said
    if every == "100":
        assert "pairs.jsonl, rows" in said
    assert not (out / "summary.json").exists()
    assert not (out / "model").exists()


def test_resuming_with_fewer_options_keeps_those_of_the_first_command(base, pairs, tmp_path):
    out = tmp_path / "run"
    first = recipe(base, pairs, out, beta=0.5, learning_rate=3e-3, max_steps=4)
    whole = rp.train(first.model_copy(update={"out": str(tmp_path / "whole")}))
    rp.train(first)
    (out / "summary.json").unlink()
    shutil.rmtree(out / "checkpoints" / "step-4")  # as if stopped after step 3
    rest = {"batch_size": 8, "epochs": 2, "eval_fraction": 0.2, "sample_prompts": 2}
    again = rp.DpoRecipe(
        model=str(base), data=str(pairs), out=str(out), sample_tokens=8, cache=False, **rest
    )
    rp.train(again)
    stored = yaml.safe_load((out / "recipe.yaml").read_text())
    assert (stored["beta"], stored["learning_rate"], stored["max_steps"]) == (0.5, 3e-3, 4)
    assert same_weights(out, whole.path)


def test_a_kill_before_the_last_word_is_made_good(base, pairs, tmp_path, monkeypatch):
    mine = recipe(base, pairs, tmp_path / "run", max_steps=2, lora_rank=2)
    with monkeypatch.context() as patched:
        patched.setattr("redpencil.stages.saving.Product.write", _stopped)
        with pytest.raises(KeyboardInterrupt):
            rp.train(mine)
    assert not (tmp_path / "run" / "summary.json").exists()
    run = rp.train(mine)
    assert (run.path / "adapter").is_dir()
    run.report.unlink()
    assert rp.train(mine).report.is_file()


def test_sft_without_evaluation_and_line_separators_in_the_data(base, tmp_path):
    rows = [{"prompt": f"The plot {w}", "completion": " was\u2028dull.\x85"} for w in "abcdef"]
    data = tmp_path / "sft.jsonl"
    data.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    run = rp.train(
        rp.SftRecipe(
            model=str(base),
            data=str(data),
            out=str(tmp_path / "run"),
            eval_fraction=0.0,
            max_steps=2,
            sample_prompts=1,
            sample_tokens=4,
        )
    )
    assert run.summary["eval_after"] == {}


def test_texts_with_line_separators_are_read_back(tmp_path):
    folder = RunFolder(tmp_path)
    rows = [{"text": "a\u2028b\u2029c\x85d"}, {"text": "\ud800"}]
    folder.write_rows("x.jsonl", rows)
    assert folder.read_rows("x.jsonl") == rows


def test_a_reference_with_another_tokenizer_is_refused(base, pairs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(base, other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace("dull", "dulled"))
    with pytest.raises(rp.ModelError, match="another tokenizer"):
        rp.train(recipe(base, pairs, tmp_path / "run", reference=str(other)))


def test_a_model_that_changed_since_is_refused(base, pairs, tmp_path):
    mine = tmp_path / "model"
    shutil.copytree(base, mine)
    rp.train(recipe(mine, pairs, tmp_path / "run", max_steps=2))
    (tmp_path / "run" / "summary.json").unlink()
    changed = load_file(mine / "model.safetensors")
    changed["model.norm.weight"] = changed["model.norm.weight"] + 1e-3
    save_file(changed, mine / "model.safetensors", {"format": "pt"})
    with pytest.raises(rp.RunFolderError, match=r"the model of .* changed since"):
        rp.train(recipe(mine, pairs, tmp_path / "run", max_steps=2))
