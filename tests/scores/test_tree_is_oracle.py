"""Tree = padded oracle, on log-probabilities, loss and every parameter's gradient."""

from itertools import combinations

import numpy as np
import pytest
import torch

from redpencil.data.packing import micro_batch, tree_cost
from redpencil.data.tree import lay_tree, lay_trees
from redpencil.models.attention import enable_activation_checkpointing, install
from redpencil.models.layout import attention_path
from redpencil.models.lora import add_lora
from redpencil.models.native.check import refusal
from redpencil.scores.forward import path_logps, scorer_for, token_logps, tree_logps
from redpencil.scores.oracle import oracle_logps, oracle_path_logps
from redpencil.types import Comparison
from zoo import (
    ARCHITECTURES,
    GRADIENT_ROUNDING,
    STRANGERS,
    VOCABULARY,
    example,
    random_examples,
    tiny_model,
)


def batch_of(responses, seed=0):
    pairs = [Comparison(chosen=i, rejected=j) for i, j in combinations(range(responses), 2)]
    laid = [
        example(e.prompt_ids.tolist(), *(r.ids.tolist() for r in e.responses), comparisons=pairs)
        for e in random_examples(seed, responses, prompts=3)
    ]
    return lay_trees(laid)


def loss_of(logps, batch):
    """DPO's loss against a made-up reference; for K = 1 the likelihood."""
    if not len(batch.pairs.chosen):
        return -logps.mean()
    reference = torch.linspace(-30, -20, len(logps))
    ratio = logps - reference
    margins = 0.1 * (ratio[batch.pairs.chosen] - ratio[batch.pairs.rejected])
    return -torch.nn.functional.logsigmoid(margins).mean()


def loss_and_gradients(model, score, batch):
    model.zero_grad()
    logps = score(model, batch)
    loss = loss_of(logps, batch)
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return logps.detach(), loss.item(), grads


def assert_same(ours, theirs, rtol=1e-5):
    torch.testing.assert_close(ours[0], theirs[0], rtol=rtol, atol=1e-5)
    assert ours[1] == pytest.approx(theirs[1], rel=rtol)
    assert ours[2].keys() == theirs[2].keys()
    assert ours[2]
    # Relative to the largest gradient of the model: some are zero but for rounding.
    largest = max(g.abs().max() for g in theirs[2].values())
    for name, grad in theirs[2].items():
        assert (ours[2][name] - grad).abs().max() <= GRADIENT_ROUNDING * largest, name


@pytest.mark.parametrize("responses", [1, 2, 4])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tree_is_oracle(name, responses):
    model = tiny_model(name)
    assert install(model)
    batch = batch_of(responses)
    ours = loss_and_gradients(model, tree_logps, batch)
    assert_same(ours, loss_and_gradients(model, oracle_logps, batch))


@pytest.mark.parametrize("way", ["flex", "dense"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tree_is_oracle_by_other_ways(name, way, flex_kernel):
    """What a GPU would compute, and what any device can."""
    model = tiny_model(name)
    assert install(model)
    batch = batch_of(3)
    with attention_path(way):
        ours = loss_and_gradients(model, tree_logps, batch)
    assert bool(flex_kernel) == (way == "flex")
    assert_same(ours, loss_and_gradients(model, oracle_logps, batch))


@pytest.mark.parametrize("responses", [1, 2, 4])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gemma2", "mistral_sliding", "phi"])
def test_with_adapters(name, responses):
    model = add_lora(tiny_model(name), rank=4)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    install(model)
    batch = batch_of(responses)
    ours = loss_and_gradients(model, tree_logps, batch)
    assert all("lora_" in n for n in ours[2])
    assert_same(ours, loss_and_gradients(model, oracle_logps, batch))


@pytest.mark.parametrize("name", ["llama", "gpt2", "stablelm"])
def test_with_activation_checkpointing(name):
    model = tiny_model(name, attention_dropout=0.0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    install(model)
    batch = batch_of(2)
    plain = loss_and_gradients(model, tree_logps, batch)
    enable_activation_checkpointing(model)
    model.train()
    assert_same(loss_and_gradients(model, tree_logps, batch), plain)


@pytest.mark.parametrize("way", ["compiled", "flash", "flex", "dense"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prompts_that_begin_alike_are_one_tree(name, way, flex_kernel):
    """Three prompts under one system prompt, and one dialogue a turn further on."""
    if way == "compiled" and refusal():
        pytest.skip(f"not compiled, as {refusal()}")
    model = tiny_model(name)
    assert install(model)
    begun = [
        example([*range(10, 28), *e.prompt_ids.tolist()], *(r.ids.tolist() for r in e.responses),
                comparisons=[Comparison(chosen=0, rejected=1)])
        for e in random_examples(2, 2, prompts=3)
    ]  # fmt: skip
    turn = [*begun[0].prompt_ids.tolist(), *begun[0].responses[0].ids.tolist(), 7]
    begun.append(example(turn, [8, 9, 3], [9, 4], comparisons=[Comparison(chosen=1, rejected=0)]))
    batch = micro_batch([lay_tree(e) for e in begun], tree_cost)
    assert len(batch.input_ids) < len(lay_trees(begun).input_ids) - 30
    with attention_path(way):
        ours = loss_and_gradients(model, tree_logps, batch)
    assert_same(ours, loss_and_gradients(model, oracle_logps, batch))


def test_unscored_tokens_inside_a_response():
    from dataclasses import replace

    whole = random_examples(3, 2, prompts=1)[0]
    mask = whole.responses[0].scored.copy()
    mask[1] = False
    partly = replace(
        whole, responses=(replace(whole.responses[0], scored=mask), whole.responses[1])
    )
    model = tiny_model("llama")
    install(model)
    batch = lay_trees([partly])
    torch.testing.assert_close(tree_logps(model, batch), oracle_logps(model, batch))
    assert not torch.allclose(tree_logps(model, batch), tree_logps(model, lay_trees([whole])))


def test_an_empty_prompt():
    model = tiny_model("llama")
    install(model)
    batch = lay_trees([example([], [5, 6, 7], [5, 9])])
    torch.testing.assert_close(tree_logps(model, batch), oracle_logps(model, batch))


@pytest.mark.parametrize("way", ["flex", "dense"])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_leak_between_siblings_is_caught_by_other_ways(name, way, flex_kernel):
    """The negative control for the rule: the first response's first token reaches one further. It
    is split off from the rest of its segment, for the way that goes by runs."""
    from dataclasses import replace

    model = tiny_model(name)
    install(model)
    batch = lay_trees([example([3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13])])
    ends = batch.subtree_end.clone()
    assert ends[3] == 5
    ends[3] = 6
    prompt, one, other = batch.segments
    segments = (prompt, replace(one, end=4), replace(one, start=4, parent=1),
                replace(other, parent=1))  # fmt: skip
    leaking = {"flex": replace(batch, subtree_end=ends), "dense": replace(batch, segments=segments)}
    right = loss_and_gradients(model, oracle_logps, batch)
    with attention_path(way):
        assert_same(loss_and_gradients(model, tree_logps, batch), right)
        with pytest.raises(AssertionError):
            assert_same(loss_and_gradients(model, tree_logps, leaking[way]), right)


def test_a_leak_between_siblings_is_caught():
    """The negative control: one token of the first response seen from the second."""
    from dataclasses import replace

    model = tiny_model("llama")
    install(model)
    batch = lay_trees([example([3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13])])
    child = batch.segments[1]
    leaking = (replace(child, end=child.end), replace(batch.segments[2], parent=1))
    wrong = replace(batch, segments=(batch.segments[0], *leaking))
    right = loss_and_gradients(model, oracle_logps, batch)
    with pytest.raises(AssertionError):
        assert_same(loss_and_gradients(model, tree_logps, wrong), right)


def test_the_sum_over_tokens_is_the_response():
    model = tiny_model("qwen3")
    install(model)
    batch = batch_of(2)
    logps = token_logps(model, batch)
    by_hand = [
        logps[batch.path_token[batch.path_response == b]].sum() for b in range(len(batch.lengths))
    ]
    torch.testing.assert_close(tree_logps(model, batch), torch.stack(by_hand))


def test_who_takes_trees_and_who_says_why_not():
    assert scorer_for(tiny_model("llama")).name == "tree"
    for name in STRANGERS:
        scorer = scorer_for(tiny_model(name))
        assert scorer.name == "oracle"
        assert scorer.logps is oracle_logps
        assert len(scorer.reason) > 10


def test_the_sum_over_thousands_of_tokens_is_rounded_once():
    model = tiny_model("llama", max_position_embeddings=4096)
    install(model)
    draw = np.random.default_rng(0)
    responses = [draw.integers(3, VOCABULARY, 2000).tolist() for _ in range(2)]
    batch = lay_trees([example([5, 6, 7], *responses)])
    with torch.no_grad():
        for tokens, sums in ((path_logps, tree_logps), (oracle_path_logps, oracle_logps)):
            exact = tokens(model, batch).double().view(2, 2000).sum(dim=1)
            rounded = exact.abs() * 2.0**-24  # half a unit in the last place of a float32
            got = sums(model, batch)
            assert got.dtype == torch.float32
            assert ((got - exact).abs() <= 1.001 * rounded).all()
