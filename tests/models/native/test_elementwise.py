"""The compiled gate, norms and rotations are torch's, values and gradients, up to rounding."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from redpencil.models import gated
from redpencil.models.gated import hold_fewer_activations
from redpencil.models.native import check, elementwise
from redpencil.models.native.elementwise import CompiledRmsNorm, Rotated, silu_product, takes
from redpencil.models.norms import install_norms
from zoo import tiny_model

pytestmark = pytest.mark.skipif(check.refusal() is not None, reason=str(check.refusal()))

shapes = st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40).map(lambda n: 16 * n))


def numbers(*shape, spread=1.0):
    generator = torch.Generator().manual_seed(sum(shape))
    return (spread * torch.randn(*shape, generator=generator)).requires_grad_()


def assert_same(ours, theirs, inputs):
    """theirs: in float64, of the same float32 inputs."""
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-6)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3))
    one = torch.autograd.grad((ours * weights).sum(), inputs)
    other = torch.autograd.grad((theirs * weights).sum(), inputs)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def norm_in_float64(x, weight, eps):
    x = x.double()
    return weight.double() * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from([0.01, 1.0, 30.0]))
def test_the_gate_of_an_mlp(shape, spread):
    gate, up = numbers(*shape, spread=spread), numbers(*shape[::-1]).reshape(shape)
    up = up.detach().requires_grad_()
    assert takes(gate) and takes(up)
    theirs = F.silu(gate.double()) * up.double()
    assert_same(silu_product(gate, up), theirs, [gate, up])


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from([1e-3, 1.0, 30.0]))
def test_norms(shape, spread):
    x, weight = numbers(*shape, spread=spread), numbers(shape[-1])
    ours = CompiledRmsNorm.apply(x, weight, 1e-6)
    assert_same(ours, norm_in_float64(x, weight, 1e-6), [x, weight])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 9), st.sampled_from([32, 64, 96, 256]))
def test_rotations(tokens, heads, width):
    x = numbers(tokens, heads, width)
    cosine, sine = numbers(2, tokens, width).detach()
    wide, half = x.double(), width // 2
    turned = torch.cat([-wide[..., half:], wide[..., :half]], dim=-1)
    theirs = wide * cosine.double()[:, None] + turned * sine.double()[:, None]
    assert_same(Rotated.apply(x, cosine, sine), theirs, [x])


def test_more_rows_than_a_piece():
    """The weight's gradient is summed piece by piece, in one order whoever computes it."""
    x, weight = numbers(3000, 64), numbers(64)
    ours = CompiledRmsNorm.apply(x, weight, 1e-6)
    assert_same(ours, norm_in_float64(x, weight, 1e-6), [x, weight])
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        out = CompiledRmsNorm.apply(x, weight, 1e-6)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, weight))))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_is_far_away_and_what_is_no_number():
    """A non-finite loss must reach the engine, which stops before the update."""
    values = [0.0, -0.0, 88.0, -88.0, 500.0, -500.0, 3e38, -3e38, torch.inf, torch.nan, -torch.nan]
    gate = torch.tensor(values + [1.0] * 5)
    up = torch.ones(16)
    torch.testing.assert_close(
        silu_product(gate, up), F.silu(gate.double()).float(), equal_nan=True, rtol=1e-6, atol=1e-36
    )
    x = torch.ones(2, 16)
    x[1, 3] = torch.nan
    out = CompiledRmsNorm.apply(x, torch.ones(16), 1e-6)
    assert out[0].isfinite().all() and out[1].isnan().all()


def test_what_it_takes():
    good = torch.randn(3, 32)
    assert takes(good)
    assert not takes(good.double()) and not takes(good.bfloat16()) and not takes(good[:, :20])
    assert not takes(good.T) and not takes(torch.randn(3, 20)) and not takes(good.to("meta"))


def gradients(model):
    model.zero_grad()
    ids = torch.tensor([[3, 9, 4, 30, 5], [8, 8, 1, 2, 40]])
    loss = model(input_ids=ids).logits.logsumexp(-1).square().sum()
    loss.backward()
    return loss, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "olmo2", "gemma"])
def test_models_that_use_them(name, monkeypatch):
    """As transformers computes them, whether the gate is a SiLU (compiled) or not (as before)."""
    model = tiny_model(name).train()
    before = gradients(model)
    calls = []
    product = gated.silu_product
    monkeypatch.setattr(gated, "silu_product", lambda *a: calls.append(1) or product(*a))
    layers = hold_fewer_activations(model)
    install_norms(model)
    after = gradients(model)
    assert len(calls) == (0 if name == "gemma" else 2 * layers)  # forward, and made once more
    torch.testing.assert_close(after[0], before[0], rtol=1e-5, atol=0)
    for parameter, grad in before[1].items():
        scale = float(grad.abs().max())
        torch.testing.assert_close(after[1][parameter], grad, rtol=1e-4, atol=1e-5 * scale)


def test_gate_and_up_are_all_that_is_held():
    model = tiny_model("llama").train()
    hold_fewer_activations(model)
    mlp, x = model.model.layers[0].mlp, torch.randn(1, 7, 32)
    held = []
    width = mlp.up_proj.out_features
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        gate_and_up = silu_product(mlp.gate_proj(x), mlp.up_proj(x))
    assert sum(t.shape[-1] == width for t in held) == 2
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), mlp.down_proj(gate_and_up))


def test_tensors_without_data():
    with FakeTensorMode() as mode:
        gate, up, weight = (mode.from_tensor(numbers(*s)) for s in ((2, 32), (2, 32), (32,)))
        grads = torch.autograd.grad(silu_product(gate, up).sum(), (gate, up))
        assert [g.shape for g in grads] == [(2, 32), (2, 32)]
        grads = torch.autograd.grad(CompiledRmsNorm.apply(gate, weight, 1e-6).sum(), (gate, weight))
        assert [g.shape for g in grads] == [(2, 32), (32,)]


def test_the_operations_keep_torchs_rules():
    gate, up = (numbers(3, 32).detach() for _ in range(2))
    weight, scale = torch.ones(32), torch.ones(3)
    checked = ("test_schema", "test_faketensor")
    for operation, arguments in (
        (elementwise._gated, (gate, up)),
        (elementwise._gated_backward, (gate, gate, up)),
        (elementwise._rms_norm, (gate, weight, 1e-6)),
        (elementwise._rms_norm_backward, (gate, gate, weight, scale, True)),
        (elementwise._rms_norm_backward, (gate, gate, weight, scale, False)),
        (elementwise._rotate, (gate.view(3, 1, 32), gate, up, False)),
    ):
        torch.library.opcheck(operation, arguments, test_utils=checked)


class Doubled(torch.nn.SiLU):
    def forward(self, x):
        return 2 * super().forward(x)


def test_shapes_and_gates_that_are_not_plain_go_by_torch(monkeypatch):
    """An up_proj that was pruned to one row is multiplied as torch does; so is a kind of SiLU."""
    model = tiny_model("llama").train()
    hold_fewer_activations(model)
    first, second = (layer.mlp for layer in model.model.layers)
    first.up_proj = torch.nn.Linear(32, 1)
    second.act_fn = Doubled()
    monkeypatch.setattr(gated, "silu_product", None)
    for mlp in (first, second):
        x = torch.randn(1, 7, 32, requires_grad=True)
        out = mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
        assert torch.equal(mlp(x), out)
        (grad,) = torch.autograd.grad(mlp(x).sum(), x)
        torch.testing.assert_close(grad, torch.autograd.grad(out.sum(), x)[0])


def test_a_norm_with_a_weight_for_each_head_goes_by_torch():
    norm = tiny_model("qwen3", head_dim=32).model.layers[0].self_attn.q_norm
    norm.weight = torch.nn.Parameter(torch.rand(4, 32))
    x = torch.randn(2, 4, 32, requires_grad=True)
    before = norm(x)
    grads = torch.autograd.grad(before.square().sum(), (x, norm.weight))
    assert install_norms(torch.nn.ModuleList([norm])) == 1
    after = norm(x)
    assert torch.equal(after, before)
    ours = torch.autograd.grad(after.square().sum(), (x, norm.weight))
    assert all(torch.equal(a, b) for a, b in zip(ours, grads, strict=True))


def test_a_frozen_norm_has_no_gradient():
    x, weight = numbers(7, 32), torch.rand(32)
    (grad,) = torch.autograd.grad(CompiledRmsNorm.apply(x, weight, 1e-6).sum(), x)
    trained = weight.clone().requires_grad_()
    both = torch.autograd.grad(CompiledRmsNorm.apply(x, trained, 1e-6).sum(), (x, trained))
    assert torch.equal(grad, both[0])


def test_nothing_in_nothing_out():
    assert not takes(torch.empty(0, 32)) and not takes(torch.empty(3, 0))
