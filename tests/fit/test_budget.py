"""The budget of micro-batches: what fits is taken, what is named is kept, a run remembers it."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import yaml
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import redpencil as rp
from redpencil.cli.main import main
from redpencil.data.group import number_responses
from redpencil.engine.footprint import _Live
from redpencil.errors import MemoryExceeded
from redpencil.fit.budget import (
    CAP,
    GRAIN,
    SHARE,
    TRIED,
    NoEstimate,
    TrialSteps,
    choose_budget,
    prove,
    settle,
    workload,
)
from redpencil.models.attention import install
from redpencil.models.load import blank_like, equip
from redpencil.scores.forward import Scorer, tree_logps
from redpencil.world.tokenizer import world_tokenizer
from tiny_runs import recipe, same_weights
from zoo import example, tiny_model

CPU = torch.device("cpu")


def work(model=None, **options):
    """A two-layer model and trees of up to 59 fed tokens."""
    model = model or tiny_model("llama")
    data = number_responses(
        [example(range(3, 33), range(3, 18), range(20, 36)), example([5], [6, 7], [8])]
    )
    made = rp.DpoRecipe(model="m", data="d", out="o", **options)
    return workload(made, partial(blank_like, model), Scorer("tree", tree_logps, ""), data, CPU)


def chosen(made, free, max_tokens="auto", checkpointing="auto"):
    return choose_budget(
        made, max_tokens=max_tokens, checkpointing=checkpointing, free=free, device=CPU
    )


def test_plenty_gives_the_cap_and_no_recomputation():
    for free in (None, 2**40):
        budget = chosen(work(), free)
        assert (budget.max_tokens, budget.checkpointing, budget.fits) == (CAP["cpu"], False, True)


def test_less_memory_gives_the_largest_budget_that_fits():
    made = work()
    half = made.footprint(1024, checkpointing=False).peak
    budget = chosen(made, int(half / SHARE["cpu"]))
    assert budget.max_tokens % GRAIN == 0
    assert 768 <= budget.max_tokens <= 1024
    assert not budget.checkpointing
    assert budget.fits
    assert made.footprint(budget.max_tokens + 2 * GRAIN, checkpointing=False).peak > half


def test_recomputation_comes_on_where_the_longest_tree_would_not_fit():
    made = work()
    assert made.longest == 59
    without = made.footprint(GRAIN, checkpointing=False).peak
    recomputed = made.footprint(GRAIN, checkpointing=True).peak
    assert recomputed < without
    free = int((without + recomputed) / 2 / SHARE["cpu"])
    budget = chosen(made, free)
    assert (budget.checkpointing, budget.fits) == (True, True)
    assert not chosen(made, free, checkpointing="off").fits
    hopeless = chosen(made, 1000)
    assert (hopeless.max_tokens, hopeless.fits) == (GRAIN, False)


def test_what_is_named_is_kept():
    budget = chosen(work(), 1000, max_tokens=300, checkpointing="off")
    assert (budget.max_tokens, budget.checkpointing, budget.fits) == (300, False, False)


def test_a_named_budget_counts_the_longest_tree():
    made = work()
    assert made.footprint(1, checkpointing=False) == made.footprint(59, checkpointing=False)


@pytest.mark.parametrize(("optimizer", "states"), [("adamw", 2), ("rmsprop", 1)])
def test_the_optimizer_s_states(optimizer, states):
    made = work(optimizer=optimizer).footprint(100, checkpointing=False)
    assert made.optimizer == states * made.gradients


def test_a_trial_step_halves_until_it_goes():
    made, tried = work(), []

    def score(model, batch):
        tried.append(len(batch.input_ids))
        if len(batch.input_ids) > 500:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tree_logps(model, batch)

    model = blank_like(tiny_model("llama")).to_empty(device="cpu")
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    assert prove(model, made, score, 1600, CPU) == 400
    assert tried == [1600, 800, 400]
    assert all(p.grad is None for p in model.parameters())


def test_a_trial_step_stands_beside_what_training_keeps_and_no_more():
    """Gradients once, the optimizer's states; a third copy of the weights would be too many."""
    model, made, seen = tiny_model("llama"), work(), []
    install(model)

    def score(model, batch):
        seen.append(live.now)
        return tree_logps(model, batch)

    with _Live(model.parameters()) as live:
        prove(model, made, score, 200, CPU)
    weights = sum(p.nbytes for p in model.parameters())
    copies, rest = divmod(seen[0], weights)
    assert copies == 1 + made.states
    assert rest < weights / 2, "the batch"


def test_a_trial_step_that_never_goes_says_so():
    def score(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryExceeded, match="has 59 tokens"):
        prove(tiny_model("llama"), work(), score, 1600, CPU)


@pytest.mark.parametrize("value", [True, "on"])
def test_yaml_s_booleans_mean_on_and_off(value):
    made = rp.DpoRecipe(model="m", data="d", out="o", activation_checkpointing=value)
    assert made.activation_checkpointing == "on"


@pytest.mark.parametrize("value", [0, "many", 1.5])
def test_a_wrong_budget_is_one_sentence(value):
    with pytest.raises(rp.RecipeError, match="max_tokens"):
        rp.make_recipe("dpo", {"model": "m", "data": "d", "out": "o", "max_tokens": value})


def test_a_resumed_run_keeps_the_budget_it_began_with(base, pairs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    first = recipe(base, pairs, out, max_steps=4)
    whole = rp.train(first.model_copy(update={"out": str(tmp_path / "whole")}))
    monkeypatch.setattr("redpencil.stages.saving.Product.write", stopped)
    with pytest.raises(KeyboardInterrupt):
        rp.train(first)
    monkeypatch.undo()
    stored = yaml.safe_load((out / "recipe.yaml").read_text())
    assert (stored["max_tokens"], stored["activation_checkpointing"]) == (CAP["cpu"], "off")
    said = " ".join(capsys.readouterr().out.split())
    assert f"micro-batches of {CAP['cpu']:,} tokens, activation checkpointing off: peak" in said
    monkeypatch.setattr(
        "redpencil.stages.wiring.free_memory", lambda device: 1
    )  # much less than before
    rp.train(first)
    stored = yaml.safe_load((out / "recipe.yaml").read_text())
    assert (stored["max_tokens"], stored["activation_checkpointing"]) == (CAP["cpu"], "off")
    assert same_weights(out, whole.path)


def stopped(*args):
    raise KeyboardInterrupt


def test_a_model_of_another_width_needs_more():
    def peak(width):
        config = LlamaConfig(
            vocab_size=61,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
        made = partial(blank_like, LlamaForCausalLM(config))
        data = number_responses([example(range(3, 33), range(3, 18), range(20, 36))])
        asked = rp.DpoRecipe(model="m", data="d", out="o")
        scorer = Scorer("tree", tree_logps, "")
        return workload(asked, made, scorer, data, CPU).footprint(100, checkpointing=False).peak

    assert 1.8 * peak(32) < peak(64) < 4.2 * peak(32)


class Branching(torch.nn.Module):
    """Looks at what tensors hold, as routers and some rotary positions do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if bool((x.abs() < 1e9).all()) else x


def branching(model):
    model.model.layers[1].mlp = Branching(model.model.layers[1].mlp)
    return model


def work_on(model, make=None, **options):
    """Of a model whose blank copies branch, too."""
    made = work(model, **options)
    blank = made.bare
    return replace(made, bare=lambda: make(blank()), blank=lambda: make(blank())) if make else made


def test_a_model_that_branches_on_data_is_measured_on_a_trial_step(capfd):
    model = tiny_model("llama")
    install(model)
    made = work_on(branching(model), branching)
    with pytest.raises(NoEstimate, match=r"^DataDependent\w+ in \w+.py, line \d+$"):
        made.footprint(100, checkpointing=False)
    trial = TrialSteps(model, made, tree_logps, CPU)
    open_recipe = recipe("m", "d", "o", max_tokens="auto", activation_checkpointing="auto")
    settled = settle(open_recipe, made, trial, free=2**40, device=CPU)
    assert (settled.max_tokens, settled.activation_checkpointing) == (CAP["cpu"], "off")
    assert "measured on a trial step" in capfd.readouterr().out
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    step = trial.footprint(TRIED, checkpointing=False)
    assert settle(open_recipe, made, trial, free=step.peak, device=CPU).max_tokens < TRIED


def test_a_trial_step_holds_what_is_told_without_one():
    model = tiny_model("llama")
    equip(model)
    made = work(model)
    trial = TrialSteps(model, made, tree_logps, CPU)
    for recomputed in (False, True):
        told = made.footprint(TRIED, checkpointing=recomputed)
        seen = trial.footprint(TRIED, checkpointing=recomputed)
        assert (seen.weights, seen.gradients, seen.optimizer, seen.activations) == (
            told.weights, told.gradients, told.optimizer, told.activations
        )  # fmt: skip
        assert seen.head == pytest.approx(told.head, rel=0.1)  # tables of a kernel's own
        more = trial.footprint(2 * TRIED, checkpointing=recomputed)
        assert more.weights == told.weights
        assert more.activations == 2 * told.activations


def test_a_model_that_cannot_recompute_goes_without():
    model = tiny_model("llama")
    type_of = type("Stubborn", (type(model),), {"supports_gradient_checkpointing": False})
    made = replace(work(model), blank=lambda: blank_like(type_of(model.config)))
    hopeless = chosen(made, 1000)
    assert (hopeless.checkpointing, hopeless.fits) == (False, False)
    with pytest.raises(NoEstimate, match="does not support activation checkpointing"):
        chosen(made, 1000, checkpointing="on")


def test_a_trial_that_fails_leaves_the_least(capfd):
    def broken(model, batch):
        raise LookupError

    made = replace(work(), score=broken)
    trial = TrialSteps(tiny_model("llama"), made, broken, CPU)
    open_recipe = recipe("m", "d", "o", max_tokens="auto", activation_checkpointing="auto")
    settled = settle(open_recipe, made, trial, free=2**40, device=CPU)
    assert (settled.max_tokens, settled.activation_checkpointing) == (GRAIN, "off")
    said = " ".join(capfd.readouterr().err.split())
    assert "a trial step failed (LookupError in test_budget.py" in said


def test_a_trial_is_of_a_step_in_training():
    seen = []

    def score(model, batch):
        seen.append(model.training)
        return tree_logps(model, batch)

    model = tiny_model("llama")
    install(model)
    prove(model, work(), score, 100, CPU)
    assert seen == [True]
    assert not model.training


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}),
        (
            "dbrx",
            {
                "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
                "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "hidden_size": 32},
            },
        ),
        ("llama4_text", {"num_local_experts": 2, "no_rope_layers": [1, 1], "head_dim": 8}),
    ],
)
def test_a_run_of_a_model_that_cannot_be_planned(kind, more, pairs, tmp_path, capfd):
    tokenizer = world_tokenizer()
    common = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "d_model": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "n_layers": 2, "num_attention_heads": 4, "n_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "max_seq_len": 128,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = CONFIG_MAPPING[kind](**{**common, **more})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    options = ["--model", str(tmp_path / "base"), "--data", str(pairs)]
    code = main(["plan", *options, "--json"])
    said = capfd.readouterr()
    assert code in (0, 2)
    assert (code == 2) == ("cannot be told without its weights" in said.err)
    steps = ["--max-steps", "1", "--batch-size", "2", "--sample-prompts", "0"]
    assert main(["dpo", *options, *steps, "--out", str(tmp_path / "run")]) == 0
    assert ("measured on a trial step" in capfd.readouterr().out) == (code == 2)
