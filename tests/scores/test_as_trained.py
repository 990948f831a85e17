"""Tree = padded oracle for models as runs train them: every fast path at once, all architectures.

The oracle's model is transformers' own, nothing of ours in it, in float32.
"""

from itertools import combinations

import pytest
import torch

from redpencil.data.packing import micro_batch, tree_cost
from redpencil.data.tree import lay_tree, lay_trees
from redpencil.models.attention import enable_activation_checkpointing
from redpencil.models.load import disable_dropout, equip
from redpencil.models.lora import add_lora
from redpencil.models.vocabulary import gradients_in_place
from redpencil.scores import chunked
from redpencil.scores.forward import tree_logps
from redpencil.scores.oracle import oracle_logps
from redpencil.types import Comparison
from zoo import ARCHITECTURES, GRADIENT_ROUNDING, example, random_examples, tiny_model

WIDE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
        "word_embed_proj_dim": 64, "query_pre_attn_scalar": 32}  # fmt: skip
"""Heads as wide as the compiled rotation asks for."""


def pairs_of(responses):
    return [Comparison(chosen=i, rejected=j) for i, j in combinations(range(responses), 2)]


def apart():
    """Three prompts with three responses each, which begin alike."""
    examples = random_examples(0, 3, prompts=3)
    laid = [
        example(e.prompt_ids.tolist(), *(r.ids.tolist() for r in e.responses),
                comparisons=pairs_of(3))
        for e in examples
    ]  # fmt: skip
    return lay_trees(laid)


def beginning_alike():
    """Four prompts under one system prompt: one tree."""
    system = [*range(10, 28)]
    laid = [
        example([*system, *e.prompt_ids.tolist()], *(r.ids.tolist() for r in e.responses),
                comparisons=pairs_of(2))
        for e in random_examples(1, 2, prompts=4)
    ]  # fmt: skip
    batch = micro_batch([lay_tree(e) for e in laid], tree_cost)
    assert len(batch.input_ids) < len(lay_trees(laid).input_ids) - 30
    return batch


def with_adapters(model):
    model = add_lora(model, rank=4)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            generator = torch.Generator().manual_seed(len(name))
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def model_of(name, *, adapters, dtype=torch.float32):
    model = tiny_model(name, **WIDE, dtype=dtype)
    disable_dropout(model)
    return model, (lambda m: with_adapters(m) if adapters else m)


def loss_and_gradients(model, score, batch, dtype=None):
    """DPO's loss against a made-up reference."""
    model.zero_grad(set_to_none=True)
    with gradients_in_place(), torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        logps = score(model, batch)
    reference = torch.linspace(-30, -20, len(logps))
    ratio = logps.float() - reference
    margins = 0.1 * (ratio[batch.pairs.chosen] - ratio[batch.pairs.rejected])
    loss = -torch.nn.functional.logsigmoid(margins).mean()
    with gradients_in_place():
        loss.backward()
    grads = {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}
    return loss.item(), logps.detach().float(), grads


def assert_same(ours, theirs, rtol=1e-5):
    assert ours[0] == pytest.approx(theirs[0], rel=rtol)
    torch.testing.assert_close(ours[1], theirs[1], rtol=rtol, atol=1e-5)
    assert ours[2].keys() == theirs[2].keys() and ours[2]
    # Relative to the largest gradient of the model: some are zero but for rounding.
    largest = max(g.abs().max() for g in theirs[2].values())
    for name, grad in theirs[2].items():
        assert (ours[2][name] - grad).abs().max() <= GRADIENT_ROUNDING * largest, name


@pytest.mark.parametrize("batch", [apart, beginning_alike])
@pytest.mark.parametrize("adapters", [False, True], ids=["all weights", "adapters"])
@pytest.mark.parametrize("recompute", [False, True], ids=["held", "checkpointing"])
@pytest.mark.parametrize("blocks", ["one block", "many blocks"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tree_is_oracle_as_trained(name, blocks, recompute, adapters, batch, monkeypatch):
    if blocks == "many blocks":  # of 40 columns of 61, a row at a time, none kept for backward
        monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", {"cpu": 40})
        monkeypatch.setattr(chunked, "KEPT_ELEMENTS", 0)
    model, adapt = model_of(name, adapters=adapters)
    theirs = loss_and_gradients(adapt(model), oracle_logps, laid := batch())
    model, adapt = model_of(name, adapters=adapters)
    equip(model)
    model = adapt(model).train()
    if recompute:
        enable_activation_checkpointing(model)
    assert_same(loss_and_gradients(model, tree_logps, laid), theirs)


@pytest.mark.parametrize("how", ["weights", "autocast"])
@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in ("mixtral", "qwen3_moe")])
def test_in_bfloat16_as_near_as_the_padded_oracle_is(name, how):
    """Both are compared with float32: ours may be off by what rounding does to theirs, which is
    chance, within a factor. Experts are left out: rounding sends a token to another one."""
    laid = apart()
    dtype = torch.bfloat16 if how == "weights" else torch.float32
    cast = torch.bfloat16 if how == "autocast" else None
    rounded, _ = model_of(name, adapters=False, dtype=dtype)
    exact = loss_and_gradients(rounded.float(), oracle_logps, laid)
    theirs = loss_and_gradients(rounded.to(dtype), oracle_logps, laid, cast)
    equip(rounded)
    ours = loss_and_gradients(rounded.train(), tree_logps, laid, cast)

    def off(result):
        grads = [torch.cat([g.flatten() for g in r[2].values()]) for r in (result, exact)]
        return [
            float((result[1] - exact[1]).norm() / exact[1].norm()),
            float((grads[0] - grads[1]).norm() / grads[1].norm()),
        ]

    for mine, other in zip(off(ours), off(theirs), strict=True):
        assert mine <= 2.5 * other + 1e-3, (off(ours), off(theirs))
    assert max(off(ours)) < 0.2
