"""The last layer works on the tokens that are read, and nothing that is read changes."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForSequenceClassification

from redpencil.data.tree import lay_trees
from redpencil.models.attention import enable_activation_checkpointing, install
from redpencil.models.last_layer import is_last
from redpencil.models.layout import Run, TreeLayout
from redpencil.models.lora import add_lora
from redpencil.models.probe import takes_trees
from redpencil.scores.forward import hidden_states, tree_logps
from redpencil.scores.rewards import oracle_rewards, tree_rewards
from redpencil.types import Places
from zoo import ARCHITECTURES, GRADIENT_ROUNDING, example, random_examples, tiny_config, tiny_model

PARTS = {
    "gemma2": {"mlp", "self_attn.q_proj", "self_attn.o_proj"},
    "gpt2": {"mlp", "attn.c_proj"},
    "gpt_neox": {"mlp", "attention.dense"},
    "llama": {"mlp", "self_attn.q_proj", "self_attn.o_proj"},
    "mixtral": {"self_attn.q_proj", "self_attn.o_proj"},
    "opt": {"fc1", "fc2", "self_attn.q_proj", "self_attn.out_proj"},
    "phi": {"mlp", "self_attn.q_proj", "self_attn.dense"},
    "phi3": {"mlp", "self_attn.o_proj"},
}


def places(*tokens):
    return Places(torch.tensor(tokens, dtype=torch.int64), np.array(tokens, dtype=np.int64))


def last_layer(model):
    return next(m for m in model.modules() if any(is_last(c) for c in m.children()))


def small_batch():
    """Trees whose prompts are mostly not read: 2 prompts of 4 to 7 tokens, 2 responses each."""
    return lay_trees(random_examples(1, 2))


@contextmanager
def rows_seen(model):
    """How many tokens each part of the last layer is given, by the part's name."""
    seen: dict[str, int] = {}
    handles = [
        last_layer(model)
        .get_submodule(name)
        .register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: args[0].shape[-2]})
        )
        for name in PARTS[model.config.model_type]
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", PARTS)
def test_the_parts_are_given_the_tokens_that_are_read(name):
    model = tiny_model(name)
    install(model)
    batch = small_batch()
    read, tokens = len(batch.predicting), len(batch.input_ids)
    assert 1 < read < tokens
    with rows_seen(model) as seen:
        tree_logps(model, batch)
    assert {part for part in PARTS[name] if seen[part] == read} == PARTS[name]
    with rows_seen(model) as seen:
        hidden_states(model, batch)
    assert {seen[part] for part in PARTS[name]} == {tokens}


def test_adapters_work_on_the_tokens_that_are_read_too():
    model = tiny_model("llama")
    install(model)
    adapted = add_lora(model, rank=4)
    batch = small_batch()
    seen: dict[str, int] = {}
    for name, module in last_layer(adapted).named_modules():
        if name.endswith(("lora_A.default", "base_layer")):
            module.register_forward_hook(
                lambda module, args, out, name=name: seen.update({name: args[0].shape[-2]})
            )
    tree_logps(adapted, batch)
    of_all = {name for name, rows in seen.items() if rows == len(batch.input_ids)}
    assert of_all == {
        f"self_attn.{part}.{inner}"
        for part in ("k_proj", "v_proj")
        for inner in ("base_layer", "lora_A.default")
    }
    assert {seen[name] for name in seen.keys() - of_all} == {len(batch.predicting)}
    assert len(seen) == 14


class Both(tuple):
    """Two tensors, of which a layer adds the first to its residual."""

    def __radd__(self, residual):
        return residual + self[0]


def test_a_part_that_returns_more_than_a_tensor_is_no_traceback():
    model = tiny_model("llama")
    plain = model.model.layers[-1].mlp
    whole = plain.forward
    plain.forward = lambda x: Both((whole(x), x))
    answer, reason = takes_trees(model)
    assert not answer and "LlamaMLP returns more than a tensor" in reason


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_read_is_what_it_is_without(name):
    model = tiny_model(name)
    install(model)
    batch = small_batch()
    whole = hidden_states(model, batch)
    narrow = hidden_states(model, batch, batch.predicting)
    read = batch.predicting.index
    torch.testing.assert_close(narrow[read], whole[read], rtol=1e-5, atol=1e-5)
    others = torch.ones(len(whole), dtype=torch.bool)
    others[read] = False
    assert not torch.isclose(narrow[others], whole[others]).all(), "nothing was spared"
    assert torch.isfinite(narrow).all()


def gradients(model, hidden, read):
    model.zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(len(read), hidden.shape[1], generator=generator)
    (hidden[read] * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("how", ["plain", "adapters", "checkpointing", "adapters later"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mistral_sliding", "opt"])
def test_gradients_are_the_same(name, how):
    model = tiny_model(name, attention_dropout=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
                       attn_pdrop=0.0, dropout=0.0)  # fmt: skip
    if how == "adapters later":
        install(model)
    if how.startswith("adapters"):
        model = add_lora(model, rank=4)
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.1)
    install(model)
    if how == "checkpointing":
        enable_activation_checkpointing(model)
        model.train()
    batch = small_batch()
    read = batch.predicting
    whole = gradients(model, hidden_states(model, batch), read.index)
    narrow = gradients(model, hidden_states(model, batch, read), read.index)
    assert whole.keys() == narrow.keys() and whole
    largest = max(g.abs().max() for g in whole.values())
    for name, grad in whole.items():
        assert (narrow[name] - grad).abs().max() <= GRADIENT_ROUNDING * largest, name


path = st.lists(st.integers(3, 5), min_size=1, max_size=6)
tree = st.tuples(path, st.lists(path, min_size=1, max_size=4))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(tree, min_size=1, max_size=3),
    st.sets(st.integers(0, 60)),
    st.sampled_from(["qwen3", "mistral_sliding", "gemma2"]),
)
def test_any_tokens_of_any_trees(shapes, chosen, name):
    batch = lay_trees([example(prompt, *responses) for prompt, responses in shapes])
    tokens = sorted({t % len(batch.input_ids) for t in chosen})
    model = MODELS.setdefault(name, tiny_model(name))
    install(model)
    read = places(*tokens)
    whole, narrow = hidden_states(model, batch), hidden_states(model, batch, read)
    torch.testing.assert_close(narrow[read.index], whole[read.index], rtol=1e-5, atol=1e-5)
    expected, found = gradients(model, whole, read.index), gradients(model, narrow, read.index)
    largest = max([1e-12, *(float(g.abs().max()) for g in expected.values())])
    for name, grad in expected.items():  # where nothing is read there may be none for zeros
        assert (grad - found.get(name, 0.0)).abs().max() <= GRADIENT_ROUNDING * largest, name


MODELS: dict[str, torch.nn.Module] = {}


def test_rewards_read_last_tokens_alone():
    config = tiny_config("llama")
    config.num_labels = 1
    model = LlamaForSequenceClassification(config).eval()
    install(model)
    batch = lay_trees(random_examples(1, 2), feed_last=True)
    assert batch.ending.host.tolist() == sorted(batch.last_token.tolist())
    seen: list[int] = []
    last_layer(model).mlp.gate_proj.register_forward_hook(
        lambda module, args, out: seen.append(args[0].shape[-2])
    )
    rewards = tree_rewards(model, batch)
    assert seen == [4]
    torch.testing.assert_close(rewards, oracle_rewards(model, batch))


def test_responses_that_are_equal_end_at_one_token():
    batch = lay_trees([example([3, 4], [5, 6], [5, 6], [5, 7])], feed_last=True)
    assert batch.last_token.tolist() == [3, 3, 4]
    assert batch.ending.host.tolist() == [3, 4]


def test_queries_start_at_the_first_token_that_is_read():
    """Prompt "3 4 5" (0 to 2), responses "6 7 8" (3, 4; 8 is not fed) and "9 10 11" (5, 6)."""
    batch = lay_trees([example([3, 4, 5], [6, 7, 8], [9, 10, 11])])
    assert batch.predicting.host.tolist() == [2, 3, 4, 5, 6]
    layout = TreeLayout.of(batch, batch.predicting)
    assert layout.runs == (Run(0, 5, ()), Run(5, 7, ((0, 3),)))
    assert layout.read_runs == (Run(2, 5, ((0, 2),)), Run(5, 7, ((0, 3),)))
    # A run without a token that is read has no queries, and a gap is not cut out of one.
    layout = TreeLayout.of(batch, places(1, 3))
    assert layout.read_runs == (Run(1, 4, ((0, 1),)),)
    assert TreeLayout.of(batch, places(*range(7))).read is None, "all are read: nothing to spare"


def test_outside_a_layout_nothing_is_spared():
    model = tiny_model("llama")
    original = copy.deepcopy(model)
    install(model)
    install(copy.deepcopy(model))
    ids = torch.arange(3, 12)[None]
    assert torch.equal(model(input_ids=ids).logits, original(input_ids=ids).logits)
    hooked = [m for m in model.modules() if m._forward_pre_hooks]
    install(model)
    assert [len(m._forward_pre_hooks) for m in hooked] == [1, 1, 1], "narrowed once"


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral_sliding"])
def test_a_batch_in_which_nothing_is_scored(name):
    whole = random_examples(1, 2)
    unscored = [
        replace(e, responses=tuple(replace(r, scored=np.zeros_like(r.scored)) for r in e.responses))
        for e in whole
    ]
    model = tiny_model(name)
    install(model)
    logps = tree_logps(model, lay_trees(unscored))
    logps.sum().backward()
    assert logps.tolist() == [0.0] * 4
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
