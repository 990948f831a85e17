"""Training mode scores what evaluation mode scores, whatever a model does in training only."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import redpencil
from redpencil.cli.main import main
from redpencil.data.tree import lay_trees
from redpencil.engine.metrics import read_metrics
from redpencil.errors import ModelError
from redpencil.models.load import equip
from redpencil.models.lora import merged_copy
from redpencil.models.training_mode import at_rest, score_in_training_as_at_rest
from redpencil.scores.forward import scorer_for
from redpencil.world.tokenizer import world_tokenizer
from zoo import random_examples, tiny_encoder, tiny_model

COMMON = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_local_experts": 4,
    "num_experts_per_tok": 2, "sliding_window": None,
}  # fmt: skip
NOISY = {
    "mixtral": {"router_jitter_noise": 0.1},
    "phimoe": {},  # noisy by its defaults, where two experts are near
    "phimoe with near experts": {"router_jitter_noise": 0.5},
    "phimoe with noise on its input": {"input_jitter_noise": 0.1},
    "gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.1, "attn_pdrop": 0.0},
}


def noisy_model(name, **more):
    config = CONFIG_MAPPING[name.partition(" ")[0]](**{**COMMON, **NOISY[name], **more})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.25)
    equip(model)
    return model


def gradients(model, score, batch):
    model.zero_grad()
    logps = score(model, batch)
    logps.sum().backward()
    return logps.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("name", NOISY)
def test_a_noisy_model_trains_on_what_is_scored(name):
    model = noisy_model(name)
    batch = lay_trees(random_examples(0, 3))
    score = scorer_for(model).logps
    with torch.no_grad():
        at_rest, noisy = score(model.eval(), batch), score(model.train(), batch)
        # What this test is about; but where it shows on few texts.
        assert name == "phimoe" or not torch.equal(at_rest, noisy)
    assert score_in_training_as_at_rest(model)
    assert model.training
    wanted, wanted_gradients = gradients(model.eval(), score, batch)
    assert torch.equal(wanted, at_rest)
    for _ in range(2):
        got, got_gradients = gradients(model.train(), score, batch)
        assert torch.equal(got, wanted)
        assert all(torch.equal(got_gradients[n], g) for n, g in wanted_gradients.items())
    copied = merged_copy(model).train()
    with torch.no_grad():
        assert torch.equal(score(copied, batch), wanted)


class Noise(nn.Module):
    """Of a name that says nothing."""

    def forward(self, x):
        return x + 0.01 * torch.randn_like(x) if self.training else x


class OnceInAWhile(nn.Module):
    """As a router that draws its experts now and then."""

    def forward(self, x):
        hit = torch.rand(x.shape[:-1]) < 0.05
        return torch.where(hit[..., None], 0 * x, x) if self.training else x


class ByBatch(nn.Module):
    """Nothing is drawn: another function all the same, and a state that training moves."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(32)

    def forward(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


def llama_with(module):
    model = tiny_model("llama")
    norm = model.model.layers[0].post_attention_layernorm
    model.model.layers[0].post_attention_layernorm = nn.Sequential(norm, module)
    return model


@pytest.mark.parametrize("kind", [Noise, OnceInAWhile, ByBatch])
def test_whatever_differs_is_found_and_nothing_else_is_touched(kind):
    model = llama_with(kind()).train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    random = torch.get_rng_state()
    (said,) = score_in_training_as_at_rest(model)
    assert ("BatchNorm1d" if kind is ByBatch else kind.__name__) in said
    assert torch.equal(torch.get_rng_state(), random)
    after = dict(model.named_buffers())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    held = {type(m) for m in model.train().modules() if not m.training}
    assert held == {nn.BatchNorm1d if kind is ByBatch else kind}


@pytest.mark.parametrize("model", [tiny_model("llama"), tiny_model("mixtral"), tiny_encoder()])
def test_what_is_the_same_is_left_alone(model):
    score_in_training_as_at_rest(model)  # an encoder has dropout
    assert score_in_training_as_at_rest(model) == []
    assert all(m.training for m in model.train().modules())
    assert not any(m.training for m in model.eval().modules())


class Restless(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Shortcut(nn.Module):
    """Fast at rest, and without a gradient there."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(32, 32)

    def forward(self, x):
        if self.training:
            return self.inner(x + 0.1 * torch.randn_like(x))
        with torch.no_grad():
            return self.inner(x)


class TwoOfThem(nn.Module):
    """Noise only while two kinds of modules train at once."""

    def __init__(self):
        super().__init__()
        self.second = nn.Identity()

    def forward(self, x):
        both = self.training and self.second.training
        return x + torch.randn_like(x) if both else x


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Restless, "otherwise each time it is asked"),
        (TwoOfThem, "computes something else in training than when it is scored"),
        (Shortcut, "has no gradient"),
    ],
)
def test_what_cannot_be_mended_is_refused_in_one_sentence(module, words):
    model = llama_with(module())
    with pytest.raises(ModelError, match=words):
        score_in_training_as_at_rest(model)


def test_a_model_that_cannot_be_compared_is_said():
    model = tiny_model("llama")
    model.forward = lambda **_: {}["what it wants"]
    (said,) = score_in_training_as_at_rest(model)
    assert "could not be compared" in said
    assert "KeyError in test_training_mode.py, line " in said


def test_a_run_on_a_noisy_router_begins_at_ln_2_and_says_what_it_leaves_out(tmp_path, pairs, capfd):
    tokenizer = world_tokenizer()
    model = noisy_model("phimoe", vocab_size=len(tokenizer), output_router_logits=True)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    options = ["--max-steps", "2", "--learning-rate", "1e-12", "--batch-size", "4"]
    options += ["--eval-fraction", "0", "--sample-prompts", "0"]
    told = ["dpo", "--model", str(tmp_path / "base"), "--data", str(pairs), *options]
    assert main([*told, "--out", str(tmp_path / "run")]) == 0
    for row in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        assert row["loss"] == pytest.approx(math.log(2), abs=1e-6)
    said = capfd.readouterr()
    assert "PhimoeTopKRouter" in said.out
    assert "auxiliary loss" in said.err
    kept = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert kept["router_jitter_noise"] == model.config.router_jitter_noise


def test_modes_come_back_after_an_error():
    model = tiny_model("llama").train()
    model.model.layers[0].eval()
    before = [m.training for m in model.modules()]

    def look():
        with at_rest(model):
            raise LookupError(any(m.training for m in model.modules()))

    with pytest.raises(LookupError, match="False"):
        look()
    assert [m.training for m in model.modules()] == before


@pytest.mark.parametrize("path", ["stages/rl_monitor.py", "rollout/roll.py", "scores/reference.py"])
def test_whoever_looks_at_a_model_at_rest_does_so_by_the_one_way(path):
    source = (Path(redpencil.__file__).parent / path).read_text(encoding="utf-8")
    assert "at_rest(" in source
    assert ".eval()" not in source
