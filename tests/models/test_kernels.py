"""Matrix kernels: the faster exact one is taken, a rounding one never, and the switch goes back."""

import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from redpencil.data.tree import lay_trees
from redpencil.models import kernels
from redpencil.models.attention import install
from redpencil.models.flash_cpu import flash_tree_attention
from redpencil.models.kernels import (
    choose_kernels,
    keep_freed_memory,
    matrix_kernels,
    onednn_rounds,
    share_heaps,
)
from redpencil.models.layout import Run
from redpencil.scores.forward import tree_logps
from redpencil.scores.oracle import oracle_logps
from zoo import random_examples, tiny_model

switch = torch.backends.mkldnn.matmul


@pytest.fixture(autouse=True)
def small_models_count(monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_PROBING", 1)


def two_layers():
    return nn.Sequential(nn.Linear(48, 64), nn.Linear(64, 48))


@pytest.mark.parametrize(
    ("default", "onednn", "name", "said"),
    [
        ((2.0, 4e-7), (1.0, 7e-7), "onednn", "2.00 times as fast"),
        ((1.0, 4e-7), (1.0, 4e-7), "default", "1.00 times its speed"),
        ((1.0, 4e-7), (0.99, 4e-7), "default", "1.01 times its speed"),
        ((9.0, 4e-7), (1.0, 4e-3), "default", "rounds"),
    ],
)
def test_the_faster_exact_one_is_chosen(monkeypatch, default, onednn, name, said):
    monkeypatch.setattr(kernels, "_seconds", lambda shapes: (default[0], onednn[0]))
    monkeypatch.setattr(kernels, "_errors", lambda shapes: (default[1], onednn[1]))
    choice = choose_kernels(two_layers())
    assert choice.name == name
    assert said in choice.reason


def test_products_that_round_are_found_by_the_probe(monkeypatch):
    """Also where they round only from a width on that the model's own weights do not reach."""
    exact = torch.nn.functional.linear

    def rounding(inputs, weight):
        if switch.fp32_precision == "bf16" and weight.shape[1] >= 64:
            return exact(inputs.bfloat16(), weight.bfloat16()).float()
        return exact(inputs, weight)

    monkeypatch.setattr(kernels.F, "linear", rounding)
    monkeypatch.setattr(kernels, "SHAPE_SECONDS", 0.0)
    narrow = nn.Sequential(nn.Linear(48, 48), nn.Linear(48, 48))
    for model in (two_layers(), narrow):
        choice = choose_kernels(model)
        assert choice.name == "default" and "rounds" in choice.reason


def test_a_real_probe_gives_a_choice_and_leaves_the_switch_alone(monkeypatch):
    monkeypatch.setattr(kernels, "SHAPE_SECONDS", 0.0)
    before = switch.fp32_precision
    assert choose_kernels(two_layers()).name in ("default", "onednn")
    assert switch.fp32_precision == before


def test_small_matrices_are_not_probed(monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_PROBING", 2 * 48 * 64 + 1)
    monkeypatch.setattr(kernels, "_seconds", None)
    assert "too small" in choose_kernels(two_layers()).reason


def test_a_model_of_another_dtype_has_nothing_to_choose():
    assert choose_kernels(two_layers().bfloat16()).name == "default"


def test_the_switch_goes_back_also_after_an_error():
    before = switch.fp32_precision

    def fail_inside():
        with matrix_kernels("onednn"):
            assert switch.fp32_precision == "bf16"
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail_inside()
    assert switch.fp32_precision == before


def test_attention_stays_on_the_default_kernels(monkeypatch):
    seen = []
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def watched(*args, **kwargs):
        seen.append(switch.fp32_precision)
        return flash(*args, **kwargs)

    monkeypatch.setattr("redpencil.models.flash_cpu._flash", watched)
    query, key, value = torch.randn(3, 1, 2, 5, 8)
    with matrix_kernels("onednn"):
        flash_tree_attention(query, key, value, [Run(0, 5, ())], None)
        assert switch.fp32_precision == "bf16"
    assert seen == ["none"]


def test_a_step_is_the_same_on_both_kernels():
    if onednn_rounds(two_layers())[0]:
        pytest.skip("oneDNN rounds on this CPU, where it is not taken")
    model = tiny_model("qwen3")
    install(model)
    batch = lay_trees(random_examples(3, 2))

    def loss_and_gradients(score):
        model.zero_grad()
        loss = score(model, batch).square().mean()
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected_loss, expected = loss_and_gradients(oracle_logps)
    with matrix_kernels("onednn"):
        loss, gradients = loss_and_gradients(tree_logps)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_glibc_takes_what_is_asked_of_it():
    assert keep_freed_memory() and share_heaps()


@pytest.mark.skipif(
    not (sys.platform == "linux" and torch.backends.mkldnn.is_available()),
    reason="needs oneDNN, and Linux to tell its memory",
)
def test_onednn_does_not_keep_a_kernel_for_every_number_of_tokens():
    """A fresh process: the limits are read once. Without them it is 380 MB, with them 100."""
    done = subprocess.run([sys.executable, "-c", _MANY_SHAPES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200


_MANY_SHAPES = """
import torch
from redpencil.models.kernels import matrix_kernels

def megabytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) // 1024

weights = [torch.randn(384, 384), torch.randn(1024, 384), torch.randn(384, 1024)]
with matrix_kernels("onednn"):
    for tokens in range(1000, 1042):
        for weight in weights:
            inputs, grad = torch.randn(tokens, weight.shape[1]), torch.randn(tokens, len(weight))
            inputs @ weight.T, grad @ weight, grad.T @ inputs
        if tokens == 1001:
            before = megabytes()
print(megabytes() - before)
"""
