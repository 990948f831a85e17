"""Rotary positions by the compiled kernel are transformers', up to rounding."""

import copy
import sys

import pytest
import torch

from redpencil.models import rotations
from redpencil.models.native import check
from redpencil.models.rotations import install_rotations
from zoo import tiny_model

pytestmark = pytest.mark.skipif(check.refusal() is not None, reason=str(check.refusal()))

IDS = torch.tensor([[3, 9, 4, 30, 5], [8, 8, 1, 2, 40]])


def gradients(model):
    model.zero_grad()
    loss = model(input_ids=IDS, position_ids=torch.arange(5)[None]).logits.logsumexp(-1).sum()
    loss.backward()
    return loss, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def assert_same(one, other):
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=0)
    for name, grad in other[1].items():
        scale = float(grad.abs().max())
        torch.testing.assert_close(one[1][name], grad, rtol=1e-4, atol=1e-5 * scale)


@pytest.fixture
def calls(monkeypatch):
    made = []
    rotated = rotations._rotated
    monkeypatch.setattr(rotations, "_rotated", lambda *a: made.append(a[0].shape) or rotated(*a))
    return made


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2"])
@pytest.mark.parametrize("rows", [1, 2])
def test_as_transformers_rotates(name, rows, calls, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "IDS", IDS[:rows])
    wide = {"head_dim": 32} if name in ("qwen3", "gemma", "gemma2") else {"hidden_size": 128}
    model = tiny_model(name, **wide).train()
    before = gradients(model)
    of_the_file = vars(sys.modules[type(model).__module__])["apply_rotary_pos_emb"]
    installed = install_rotations(model)
    assert_same(gradients(model), before)
    assert vars(sys.modules[type(model).__module__])["apply_rotary_pos_emb"] is of_the_file
    assert installed == 2 and len(calls) == (4 if rows == 1 else 0), calls
    assert_same(gradients(copy.deepcopy(model)), before)


def test_which_models_there_are():
    """Those whose own function is the usual one; others keep theirs."""
    assert install_rotations(tiny_model("llama")) == 2
    assert install_rotations(tiny_model("qwen3")) == 2
    assert install_rotations(tiny_model("gpt2")) == 0
    assert install_rotations(tiny_model("olmo2")) == 0  # rounds to the queries' dtype


def test_narrow_heads_and_other_dtypes_keep_the_function_of_the_file(calls):
    for model in (tiny_model("llama"), tiny_model("llama", hidden_size=128).double()):
        before = gradients(model.train())
        install_rotations(model)
        after = gradients(model)
        assert torch.equal(after[0], before[0]) and calls == []


def apply_rotary_pos_emb(q, k, cos, sin, position_ids=None, unsqueeze_dim=1):
    """As remote code of the year 2023 has it: something else is the fifth argument."""
    cos = cos.unsqueeze(unsqueeze_dim)
    sin = sin.unsqueeze(unsqueeze_dim)
    q_embed = (q * cos) + (rotate_half(q) * sin)
    k_embed = (k * cos) + (rotate_half(k) * sin)
    return q_embed, k_embed


def rotate_half(x):
    """Rotates half the hidden dims of the input."""
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


class Rotates(torch.nn.Module):
    how = "by position"

    def forward(self, q, k, cos, sin):
        if self.how == "by position":
            return apply_rotary_pos_emb(q, k, cos, sin, None)
        if self.how == "by name":
            return apply_rotary_pos_emb(q, k, cos, sin, position_ids=None)
        return apply_rotary_pos_emb(q, k, cos, sin)


@pytest.mark.parametrize(("how", "ours"), [("by position", 0), ("by name", 0), ("plainly", 2)])
def test_arguments_that_are_not_known_go_to_the_function_of_the_file(how, ours, calls):
    q, k = torch.randn(2, 1, 5, 3, 32).transpose(2, 3)
    cos, sin = torch.randn(2, 1, 5, 32)
    module = Rotates()
    module.how = how
    before = module(q, k, cos, sin)
    assert install_rotations(module) == 1
    for one, other in zip(module(q, k, cos, sin), before, strict=True):
        torch.testing.assert_close(one, other)
    assert len(calls) == ours
