"""Adapters: they begin as nothing, switch off exactly, and merge without touching the model."""

import copy

import pytest
import torch

from redpencil.errors import ModelError
from redpencil.models.lora import adapter_off, add_lora, merged_copy
from zoo import tiny_model

IDS = torch.tensor([[3, 9, 4, 30, 5]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def perturbed(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3)
    return model


def test_at_first_nothing_changes_and_only_adapters_are_trained():
    plain = logits(tiny_model("llama"))
    model = add_lora(tiny_model("llama"), rank=3)
    assert torch.equal(logits(model), plain)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2 and all("lora_" in n for n in trained)
    assert not any("lm_head" in n for n in trained)
    scaling = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj").scaling
    assert scaling == {"default": 2.0}


def test_off_is_the_reference_and_on_again_the_policy():
    plain = logits(tiny_model("llama"))
    model = perturbed(add_lora(tiny_model("llama"), rank=3, alpha=5.0))
    policy = logits(model)
    assert not torch.allclose(policy, plain)
    with adapter_off(model):
        assert torch.equal(logits(model), plain)
    assert torch.equal(logits(model), policy)
    with pytest.raises(AssertionError, match="no adapter"), adapter_off(tiny_model("llama")):
        pass


def test_the_seed_decides_and_the_global_state_is_left():
    before = torch.get_rng_state()
    states = [
        dict(add_lora(tiny_model("llama"), rank=2, seed=s).named_parameters()) for s in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    key = next(n for n in states[0] if "lora_A" in n)
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_a_merged_copy_is_plain_and_the_model_stays(name):
    model = perturbed(add_lora(tiny_model(name), rank=3))
    weights = copy.deepcopy(model.state_dict())
    merged = merged_copy(model)
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)
    assert merged.state_dict().keys() == tiny_model(name).state_dict().keys()
    assert all(torch.equal(model.state_dict()[n], w) for n, w in weights.items())


def test_targets_that_are_not_there():
    with pytest.raises(ModelError, match="adapters cannot be added"):
        add_lora(tiny_model("llama"), rank=2, targets=["nowhere"])
