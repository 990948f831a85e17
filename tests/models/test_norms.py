"""RMS norms with our backward pass: transformers' own values, and its gradients to rounding."""

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from redpencil.models.norms import install_norms
from zoo import tiny_model


def norms(dtype, *, weight=True):
    torch.manual_seed(0)
    plain, ours = Qwen3RMSNorm(12), Qwen3RMSNorm(12)
    torch.nn.init.normal_(plain.weight)
    ours.load_state_dict(plain.state_dict())
    assert install_norms(ours) == 1
    return [n.to(dtype).requires_grad_(weight) for n in (plain, ours)]


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_values_are_equal_and_gradients_to_rounding(dtype, within, weight):
    found = []
    x = torch.randn(3, 5, 12).to(dtype)
    above = torch.randn(3, 5, 12).to(dtype)
    for norm in norms(dtype, weight=weight):
        given = x.clone().requires_grad_()
        out = norm(given)
        out.backward(above)
        found.append((out, given.grad, norm.weight.grad))
    (out, of_x, of_weight), (our_out, our_x, our_weight) = found
    assert torch.equal(out, our_out)
    torch.testing.assert_close(our_x, of_x, rtol=within, atol=within)
    if weight:
        torch.testing.assert_close(our_weight, of_weight, rtol=within, atol=within)
    else:
        assert our_weight is None


@pytest.mark.parametrize(
    ("name", "count"), [("llama", 5), ("qwen3", 9), ("olmo2", 0), ("gemma2", 0), ("gpt2", 0)]
)
def test_only_norms_of_these_very_words_are_taken(name, count):
    assert install_norms(tiny_model(name)) == count
