"""Gradients that are added in place are autograd's, without its matrices."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers import Qwen3Config, Qwen3ForCausalLM

from redpencil.data.tree import lay_trees
from redpencil.engine.footprint import Shape, synthetic_batch, training_footprint
from redpencil.engine.step import train_step
from redpencil.models.attention import install
from redpencil.models.load import equip
from redpencil.models.vocabulary import gradients_in_place, install_lookup
from redpencil.optim import OptimConfig, build_optimizer
from redpencil.scores.chunked import chunked_logps
from redpencil.scores.forward import tree_logps
from redpencil.stages.tasks import preference_task
from redpencil.types import Batch, Comparison
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


@pytest.mark.parametrize("around", ["identity hooks", "checkpointing"])
def test_saved_tensor_hooks_lose_nothing(around):
    """Under them what was saved comes back as another tensor than the parameter."""
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(9, 4)
    install_lookup(embedding)
    head = torch.nn.Parameter(torch.randn(9, 4))
    ids = torch.tensor([3, 1, 3])

    def score():
        return chunked_logps(embedding(ids), head, None, torch.tensor([5, 0, 2])).sum()

    plain = torch.autograd.grad(score(), [embedding.weight, head])
    with gradients_in_place():
        if around == "checkpointing":
            checkpoint(score, use_reentrant=False).backward()
        else:
            with saved_tensors_hooks(lambda t: t, lambda t: t):
                score().backward()
    torch.testing.assert_close([embedding.weight.grad, head.grad], list(plain))


@pytest.mark.parametrize("option", ["sparse", "scale_grad_by_freq", "max_norm"])
def test_embeddings_with_ways_of_their_own_are_left_alone(option):
    assert install_lookup(torch.nn.Embedding(9, 4, **{option: True})) == 0


def test_a_step_adds_in_place_and_ends_where_autograd_would():
    """Through the engine: two micro-batches, a tied matrix, the first update."""

    def stepped(lookup, tmp=None):
        model = tiny_model("llama", tie_word_embeddings=True)
        (equip if lookup else install)(model)
        seen = []
        weight = model.get_input_embeddings().weight
        weight.register_hook(lambda grad: seen.append(grad is None))
        pairs = [Comparison(chosen=0, rejected=1)]
        laid = [
            example(
                e.prompt_ids.tolist(), *(r.ids.tolist() for r in e.responses), comparisons=pairs
            )
            for e in random_examples(5, 2)
        ]
        batch = Batch(tuple(lay_trees([e]) for e in laid))
        task = preference_task("dpo", {}, tree_logps, lambda b: torch.zeros(len(b.lengths)))
        config = OptimConfig(learning_rate=1e-3)
        optimizer = build_optimizer(model.named_parameters(), config)
        means = train_step(model, optimizer, batch, task, max_grad_norm=1.0)
        return means, weight, seen

    plain, at_end, seen = stepped(lookup=False)
    ours, at_our_end, ours_seen = stepped(lookup=True)
    assert seen == [False, False] and ours_seen == [True, True]
    assert ours == pytest.approx(plain, rel=1e-5)
    torch.testing.assert_close(at_our_end, at_end, rtol=1e-4, atol=1e-6)


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
