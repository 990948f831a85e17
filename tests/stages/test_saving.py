"""What a run saves is all that the next program needs, and is tried before the first step."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import redpencil as rp
from redpencil.cli.main import main
from redpencil.stages.saving import TRIED
from redpencil.use.exporting import export
from tiny_runs import recipe

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ '</s>' if not add_generation_prompt }}"
)


def generation_config(folder: Path) -> dict:
    return json.loads((folder / "generation_config.json").read_text())


def changed(base: Path, out: Path, name: str, **entries) -> Path:
    """A copy of a model folder with some entries of a JSON file set."""
    shutil.copytree(base, out)
    content = json.loads((out / name).read_text())
    (out / name).write_text(json.dumps({**content, **entries}))
    return out


def short(base, pairs, out, **options):
    return recipe(base, pairs, out, max_steps=2, eval_fraction=0.1, sample_prompts=0, **options)


@pytest.mark.parametrize(
    ("entries", "rank"),
    [
        ({"temperature": 0.6, "top_p": 0.9}, 0),
        ({"do_sample": False, "temperature": 0.6}, 2),
        ({"num_beams": 1, "early_stopping": True}, 0),
        ({"pad_token_id": -1}, 0),
        ({"do_sample": True, "temperature": 0.7}, 0),
    ],
)
def test_a_generation_config_is_written_as_it_came(base, pairs, tmp_path, entries, rank):
    # Responses end with another token: the end tokens are what is changed.
    start = changed(base, tmp_path / "base", "generation_config.json", eos_token_id=3, **entries)
    run = rp.train(short(start, pairs, tmp_path / "run", lora_rank=rank))
    written = generation_config(run.model)
    for name, value in entries.items():
        assert written.get(name, {"do_sample": False, "num_beams": 1}.get(name)) == value
    assert written["eos_token_id"] == [2, 3]
    loaded = AutoModelForCausalLM.from_pretrained(run.model)
    assert loaded.generation_config.eos_token_id == [2, 3]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("config is not serializable"),
        NotImplementedError(),
        RuntimeError("some tensors share memory"),
        OSError(28, "No space left on device"),
    ],
)
def test_what_cannot_be_saved_is_said_before_the_first_step(
    base, pairs, tmp_path, monkeypatch, capsys, error
):
    def refuse(self, *args, **options):
        raise error

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", refuse)
    out = tmp_path / "run"
    assert main(["dpo", "--model", str(base), "--data", str(pairs), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    why = "no space is left" if isinstance(error, OSError) else "nothing was trained"
    assert why in said and "Traceback" not in said
    assert not (out / "metrics.jsonl").exists() and not (out / TRIED).exists()


def test_adapters_that_cannot_be_merged_are_said_before_the_first_step(
    base, pairs, tmp_path, monkeypatch, capsys
):
    def refuse(self, *args, **options):
        raise NotImplementedError

    monkeypatch.setattr("peft.tuners.lora.layer.Linear.merge", refuse)
    command = ["dpo", "--model", base, "--data", pairs, "--out", tmp_path / "run", "--lora-rank", 2]
    assert main([str(word) for word in command]) == 2
    assert (
        "could not be saved at the end of the run (NotImplementedError" in capsys.readouterr().err
    )


def test_a_disk_too_small_for_model_and_checkpoints_is_said_before_the_first_step(
    base, pairs, tmp_path, monkeypatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 200_000))
    with pytest.raises(rp.RunFolderError, match=r"has 0.2 MB free, and the run will need 2.\d MB"):
        rp.train(short(base, pairs, tmp_path / "run"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 10_000_000))
    assert rp.train(short(base, pairs, tmp_path / "run")).model.is_dir()


def test_the_report_is_there_from_the_start(base, pairs, tmp_path, monkeypatch):
    def stop(*args, **options):
        assert (tmp_path / "run" / "report.html").is_file()
        raise rp.Interrupted("here")

    monkeypatch.setattr("redpencil.stages.training.train_loop", stop)
    with pytest.raises(rp.Interrupted, match="here"):
        rp.train(short(base, pairs, tmp_path / "run"))


def test_a_checkpoint_is_exported_with_all_that_the_final_model_has(base, pairs, tmp_path):
    """Also from a run that never ended: nothing of it is taken from the final model."""
    start = changed(base, tmp_path / "base", "generation_config.json", eos_token_id=[2, 3])
    template = tmp_path / "own.jinja"
    template.write_text(TEMPLATE)
    options = {"chat_template": str(template), "checkpoint_every": 1, "keep_checkpoints": 9}
    run = rp.train(short(start, pairs, tmp_path / "run", **options))
    template.unlink()
    (run.path / "summary.json").unlink()
    shutil.move(run.model, tmp_path / "final")
    assert main(["export", str(run.path), str(tmp_path / "one"), "--step", "1"]) == 0
    exported, final = tmp_path / "one", tmp_path / "final"
    assert {p.name for p in exported.iterdir()} == {p.name for p in final.iterdir()}
    assert generation_config(exported)["eos_token_id"] == [2, 3]
    for name in ("generation_config.json", "config.json", "chat_template.jinja"):
        assert (exported / name).read_bytes() == (final / name).read_bytes()
    one, last = (load_file(f / "model.safetensors") for f in (exported, final))
    assert one.keys() == last.keys() and not all(torch.equal(one[k], last[k]) for k in one)
    assert main(["export", str(run.path), str(tmp_path / "two"), "--step", "2"]) == 0
    two = load_file(tmp_path / "two" / "model.safetensors")
    assert all(torch.equal(two[k], last[k]) for k in last)


def reward_recipe(base, pairs, out, **options):
    settings = {"batch_size": 8, "max_steps": 4, "learning_rate": 1e-3, "eval_fraction": 0.2}
    return rp.RewardRecipe(
        model=str(base), data=str(pairs), out=str(out), **{**settings, **options}
    )


@pytest.mark.parametrize("rank", [0, 2])
def test_an_exported_reward_model_has_its_own_mean_and_deviation(base, pairs, tmp_path, rank):
    kept = {"checkpoint_every": 1, "keep_checkpoints": 9, "lora_rank": rank}
    run = rp.train(reward_recipe(base, pairs, tmp_path / "run", **kept))
    final = json.loads((run.model / "config.json").read_text())
    (run.path / "summary.json").unlink()  # else the last step's is the final model
    for step in (2, 4):
        export(run.path, tmp_path / str(step), step=str(step))
    early, late = (json.loads((tmp_path / step / "config.json").read_text()) for step in ("2", "4"))
    assert late["reward_mean"] == pytest.approx(final["reward_mean"], abs=1e-6)
    assert late["reward_std"] == pytest.approx(final["reward_std"], abs=1e-6)
    assert abs(early["reward_mean"] - final["reward_mean"]) > 1e-4
    assert late["pad_token_id"] == final["pad_token_id"]
    moved = pairs.read_text()
    (tmp_path / "other.jsonl").write_text(moved.replace("The", "A"))
    recipe_file = run.path / "recipe.yaml"
    recipe_file.write_text(recipe_file.read_text().replace(str(pairs), f"{tmp_path}/gone.jsonl"))
    with pytest.raises(rp.RunFolderError, match="measured on the run's training data"):
        export(run.path, tmp_path / "gone", step="2")


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtypes(folder: Path) -> set[torch.dtype]:
    return {t.dtype for t in load_file(folder / "model.safetensors").values()}


@pytest.mark.parametrize(
    ("dtype", "named"), [("float32", True), ("bfloat16", True), ("float16", False)]
)
def test_export_writes_the_dtype_of_the_base_and_the_run_what_it_trained(
    base, pairs, tmp_path, dtype, named
):
    start = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(base, dtype=DTYPES[dtype]).save_pretrained(start)
    AutoTokenizer.from_pretrained(base).save_pretrained(start)
    if not named:
        content = json.loads((start / "config.json").read_text())
        (start / "config.json").write_text(json.dumps({**content, "dtype": None}))
    first = rp.train(short(start, pairs, tmp_path / "first", checkpoint_every=1))
    second = rp.train(short(first.model, pairs, tmp_path / "second"))
    assert dtypes(first.model) == dtypes(second.model) == {torch.float32}
    for run, step, options in (
        (first, "last", []),
        (first, "1", []),
        (second, "last", []),
        (first, "last", ["--dtype", "bfloat16"]),
    ):
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        assert main(["export", str(run.path), str(out), "--step", step, *options]) == 0
        assert dtypes(out) == {torch.bfloat16 if options else DTYPES[dtype]}
        assert AutoModelForCausalLM.from_pretrained(out).dtype in dtypes(out)


def test_a_dtype_that_is_none_or_cannot_hold_a_weight_is_one_sentence(
    base, pairs, tmp_path, capsys
):
    run = rp.train(short(base, pairs, tmp_path / "run"))
    command = ["export", str(run.path), str(tmp_path / "out"), "--dtype"]
    assert main([*command, "bfloat"]) == 2
    assert 'did you mean "bfloat16"?' in capsys.readouterr().err
    path = run.model / "model.safetensors"
    model = AutoModelForCausalLM.from_pretrained(run.model)
    model.model.norm.weight.data[0] = 1e5
    model.save_pretrained(path.parent)
    (run.path / "checksums.json").unlink()  # changed on purpose
    assert main([*command, "float16"]) == 2
    assert "model.norm.weight reaches 1e+05, which float16 cannot hold" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "given"),
    [("sft", "file"), ("dpo", "file"), ("dpo", "none"), ("reward", "file"), ("rl", "file")],
)
def test_the_next_stage_reads_by_the_template_that_this_one_was_given(
    base, pairs, tmp_path, stage, given
):
    start, own = tmp_path / "base", tmp_path / "own.jinja"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{ raise_exception('not the template that was asked for') }}"
    shutil.copytree(base, start)
    tokenizer.save_pretrained(start)
    own.write_text(TEMPLATE)
    template = str(own) if given == "file" else given
    common = {"model": str(start), "data": str(pairs), "out": str(tmp_path / "one"), "max_steps": 2}
    kinds = {
        "sft": (rp.SftRecipe, {"sample_prompts": 0}),
        "dpo": (rp.DpoRecipe, {"sample_prompts": 0, "cache": False}),
        "reward": (rp.RewardRecipe, {}),
        "rl": (rp.RlRecipe, {"reward": "toy_rewards:longer", "max_new_tokens": 4}),
    }
    kind, more = kinds[stage]
    adapters = {"lora_rank": 2} if given == "file" else {}
    first = rp.train(kind(**common, **more, **adapters, chat_template=template))
    own.unlink()
    for name in ("model", "tokenizer", *(["adapter"] if adapters else [])):
        saved = AutoTokenizer.from_pretrained(first.path / name)
        assert saved.chat_template == (TEMPLATE if given == "file" else None)
    if stage in ("dpo", "reward"):
        assert main(["eval", str(first.path)]) == 0
    if stage in ("sft", "dpo"):
        then = common | {"model": str(first.model), "out": str(tmp_path / "two")}
        again = rp.train(kind(**then, **more))
        seen = [json.loads((r.path / "data.json").read_text()) for r in (first, again)]
        assert seen[0]["data_fingerprint"] == seen[1]["data_fingerprint"]
