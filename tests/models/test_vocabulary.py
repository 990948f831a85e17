"""Gradients that are added in place are autograd's, without its matrices."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from redpencil.data.tree import lay_trees
from redpencil.engine.footprint import Shape, synthetic_batch, training_footprint
from redpencil.models.attention import install
from redpencil.models.vocabulary import gradients_in_place, install_lookup
from redpencil.scores.forward import tree_logps
from zoo import example, random_examples, tiny_model


def gradients_of_two_batches(model):
    """Summed over two micro-batches, as a step does; one holds the padding token."""
    model.zero_grad(set_to_none=True)
    with_padding = [example([0, 4, 0], [5, 0, 7], [6, 8])]
    for examples in (random_examples(3, 2), with_padding):
        logps = tree_logps(model, lay_trees(examples))
        (logps * torch.linspace(-1, 2, len(logps), dtype=logps.dtype)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi", "gemma2", "opt"])
def test_gradients_are_autograds(name, tied):
    model = tiny_model(name, tie_word_embeddings=tied, dtype=torch.float64)
    install(model)
    plain = gradients_of_two_batches(model)
    lookups = install_lookup(model)
    assert lookups == {"gpt2": 2, "gemma2": 0}.get(name, 1)
    with gradients_in_place():
        in_place = gradients_of_two_batches(model)
    assert plain.keys() == in_place.keys()
    for parameter, grad in plain.items():
        torch.testing.assert_close(in_place[parameter], grad, rtol=1e-12, atol=1e-12)


def test_autograd_never_sees_them():
    model = tiny_model("llama", tie_word_embeddings=True)
    install(model)
    install_lookup(model)
    weight = model.get_input_embeddings().weight
    seen = []
    weight.register_hook(lambda grad: seen.append(grad is None))
    gradients_of_two_batches(model)
    assert seen == [False, False]
    with gradients_in_place():
        gradients_of_two_batches(model)
    assert seen == [False, False, True, True]


def test_rows_of_the_padding_token_stay_zero():
    model = tiny_model("llama")
    install(model)
    install_lookup(model)
    with gradients_in_place():
        grads = gradients_of_two_batches(model)["model.embed_tokens.weight"]
    assert model.get_input_embeddings().padding_idx == 0
    assert not grads[0].any() and grads[4].any()


def test_frozen_weights_get_none():
    model = tiny_model("llama", tie_word_embeddings=True)
    install(model)
    install_lookup(model)
    weight = model.get_input_embeddings().weight.requires_grad_(False)
    with gradients_in_place():
        tree_logps(model, lay_trees(random_examples(3, 2))).sum().backward()
    assert weight.grad is None


def test_narrow_weights_go_through_autograd():
    model = tiny_model("llama", dtype=torch.bfloat16)
    install(model)
    install_lookup(model)
    plain = gradients_of_two_batches(model)
    with gradients_in_place():
        again = gradients_of_two_batches(model)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_no_second_matrix_over_the_vocabulary_exists():
    """At the peak of a step: 40,000 rows of 32 are 5.1 MB; autograd would hold two or three."""
    config = Qwen3Config(
        vocab_size=40_000, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True,
    )  # fmt: skip
    batch = synthetic_batch(40, Shape(scored=0.1, longest=40))

    def beside_the_gradient(lookup: bool) -> float:
        with torch.device("meta"):
            model = Qwen3ForCausalLM(config).train()
        install(model)
        if lookup:
            install_lookup(model)
        found = training_footprint(model, tree_logps, batch, states=2)
        return (found.activations + found.head) / (40_000 * 32 * 4)

    # Logits of 4 tokens are an eighth of such a matrix.
    assert beside_the_gradient(lookup=True) < 0.5
    assert beside_the_gradient(lookup=False) > 1.0
