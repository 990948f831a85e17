"""Activations made again in the backward pass: the same values and gradients, bit for bit.

The same by compiled kernels: native/test_elementwise.py.
"""

import copy

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from redpencil.models import gated
from redpencil.models.attention import enable_activation_checkpointing
from redpencil.models.gated import hold_all_activations, hold_fewer_activations
from redpencil.models.lora import add_lora
from zoo import tiny_model

IDS = torch.tensor([[3, 9, 4, 30, 5], [8, 8, 1, 2, 40]])


def gradients(model):
    model.zero_grad()
    loss = model(input_ids=IDS).logits.logsumexp(-1).square().sum()
    loss.backward()
    return loss, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def assert_same(one, other):
    assert torch.equal(one[0], other[0])
    assert one[1].keys() == other[1].keys() and one[1]
    for name, grad in one[1].items():
        assert torch.equal(grad, other[1][name]), name


@pytest.fixture
def by_torch(monkeypatch):
    """Without the compiled kernels, whose results are those of torch up to rounding."""
    monkeypatch.setattr("redpencil.models.gated.takes", lambda tensor: False)


pytestmark = pytest.mark.usefixtures("by_torch")


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "olmo2"])
def test_gradients_are_bitwise_those_of_transformers(name):
    model = tiny_model(name).train()
    before = gradients(model)
    assert hold_fewer_activations(model) == 2
    assert_same(gradients(model), before)
    assert_same(gradients(copy.deepcopy(model)), before)
    hold_all_activations(model)
    assert not any("forward" in vars(m) for m in model.modules())
    assert_same(gradients(model), before)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "phi3"])
def test_other_layers_are_left_alone(name):
    assert hold_fewer_activations(tiny_model(name)) == 0


def test_under_adapters_and_in_bf16():
    for dtype in (torch.float32, torch.bfloat16):
        models = [tiny_model("qwen3").to(dtype) for _ in range(2)]
        assert hold_fewer_activations(models[1]) == 2
        one, other = (gradients(add_lora(m, rank=3, seed=0).train()) for m in models)
        assert_same(one, other)


def test_a_second_backward_makes_them_once_more():
    model = tiny_model("llama").train()
    hold_fewer_activations(model)
    loss = model(input_ids=IDS).logits.square().sum()
    weight = model.model.layers[0].mlp.down_proj.weight
    first = torch.autograd.grad(loss, [weight], retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(loss, [weight])[0])


def test_checkpointing_takes_its_place():
    model = tiny_model("llama").train()
    before = gradients(model)
    hold_fewer_activations(model)
    enable_activation_checkpointing(model)
    assert not any("forward" in vars(m) for m in model.modules())
    assert_same(gradients(model), before)


def test_gate_and_up_are_all_that_is_held(monkeypatch):
    product, others = [], []

    def spy(pack, unpack):
        def watched(tensor):
            packed = pack(tensor)
            (others if isinstance(packed, torch.Tensor) else product).append(packed)
            return packed

        return saved_tensors_hooks(watched, unpack)

    monkeypatch.setattr(gated, "saved_tensors_hooks", spy)
    model = tiny_model("llama").train()
    hold_fewer_activations(model)
    mlp, x = model.model.layers[0].mlp, torch.randn(1, 7, 32)
    with saved_tensors_hooks(lambda t: others.append(t) or t, lambda t: t):
        mlp(x)
    inner = [t for t in others if t.shape[-1] == 48 and t.shape != mlp.down_proj.weight.shape]
    assert len(product) == 1 and product[0].numel() == 7 * 48
    for tensor, projection in zip(inner, (mlp.gate_proj, mlp.up_proj), strict=True):
        assert torch.equal(tensor, projection(x))
    with torch.no_grad():
        assert not product.clear() and torch.equal(mlp(x), mlp(x)) and product == []


def test_a_gate_with_weights_of_its_own_is_left_alone():
    model = tiny_model("llama").train()
    model.model.layers[0].mlp.act_fn = torch.nn.PReLU()
    assert hold_fewer_activations(model) == 1


class Scaled(torch.nn.Module):
    """As remote code may have it: the usual words, and something else."""

    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = torch.nn.Linear(32, 48), torch.nn.Linear(32, 48)
        self.down_proj, self.act_fn = torch.nn.Linear(48, 32), torch.nn.SiLU()

    def forward(self, x):
        down_proj = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return down_proj * 3.0


class More(Scaled):
    """The same words, and an argument that ours would not take."""

    def forward(self, x, residual=None):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Plain(Scaled):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def test_a_gate_that_is_a_function_is_left_alone():
    mlp = Plain()
    assert hold_fewer_activations(mlp) == 1
    hold_all_activations(mlp)
    del mlp.act_fn
    mlp.act_fn = torch.nn.functional.silu
    assert hold_fewer_activations(mlp) == 0


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_under_autocast(name):
    """Made again in the same precision."""
    model = tiny_model(name).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = gradients(model)
        hold_fewer_activations(model)
        after = gradients(model)
    assert_same(after, before)


def test_another_signature_is_left_alone():
    assert hold_fewer_activations(More()) == 0


def test_what_says_more_keeps_its_own_forward():
    mlp, x = Scaled(), torch.randn(5, 32)
    before = mlp(x)
    assert hold_fewer_activations(mlp) == 0
    assert torch.equal(mlp(x), before)
