"""What the probe says of a model: which ways of scoring give its own numbers, and no other's."""

import copy
from types import MethodType

import numpy as np
import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from redpencil.data.tree import lay_trees
from redpencil.errors import ModelError
from redpencil.models import attention
from redpencil.models.attention import install, is_installed, uninstall
from redpencil.models.load import load_model
from redpencil.models.probe import sharing, takes_trees
from redpencil.scores.forward import path_logps, scorer_for
from redpencil.scores.oracle import oracle_path_logps
from redpencil.scores.rewards import oracle_rewards, reward_scorer_for
from zoo import ARCHITECTURES, VOCABULARY, example, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def built(kind, auto=AutoModelForCausalLM, **options) -> PreTrainedModel:
    """A tiny random model of transformers, untouched, its weights large enough to matter."""
    options = {k: v for k, v in {**COMMON, **options}.items() if v is not ...}
    config = CONFIG_MAPPING[kind](**options)
    if auto is AutoModelForSequenceClassification:
        config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.25)
            else:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def uneven():
    """Two trees with paths of 7 to 40 tokens; some are of one length."""
    ids = np.random.default_rng(0).integers(3, VOCABULARY, 400).tolist()
    return lay_trees(
        [
            example(ids[:12], ids[20:48], ids[50:54], ids[60:64]),
            example(ids[100:104], ids[110:113], ids[120:150]),
        ],
        feed_last=True,
    )


def alone(model, batch) -> torch.Tensor:
    """(E,) log-probabilities by transformers, one sequence at a time."""
    found = []
    with torch.no_grad():
        for e in batch.examples:
            for r in e.responses:
                row = torch.from_numpy(np.concatenate([e.prompt_ids, r.ids])).long()
                logps = (
                    model(input_ids=row[None], use_cache=False)
                    .logits[0, :-1]
                    .float()
                    .log_softmax(-1)
                )
                logps = logps.gather(1, row[1:, None])[:, 0]
                found.append(logps[len(e.prompt_ids) - 1 :])
    return torch.cat(found)


def rewards_alone(model, batch) -> torch.Tensor:
    """(B,)"""
    rows = [np.concatenate([e.prompt_ids, r.ids]) for e in batch.examples for r in e.responses]
    with torch.no_grad():
        found = [model(input_ids=torch.from_numpy(row).long()[None]).logits[:, 0] for row in rows]
    return torch.cat(found)


MLA = {
    "kv_lora_rank": 24, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 24, "first_k_dense_replace": 1,
    "index_topk": 8, "index_head_dim": 16, "index_n_heads": 4,
}  # fmt: skip
SELECTING = {
    "deepseek_v32": MLA,
    "glm_moe_dsa": {**MLA, "mlp_layer_types": ["dense", "sparse"],
                    "indexer_types": ["full", "full"]},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"], "mlp_layer_types": ["dense"] * 2,
        "num_key_value_heads": 2, "index_n_heads": 2, "index_head_dim": 16, "index_block_size": 4,
        "index_topk_blocks": 2, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2,
        "rotary_dim": 8,
    },
}  # fmt: skip
"""Models that choose the keys of each token, in a mask that is lost under a strange name."""


@pytest.mark.parametrize("kind", SELECTING)
def test_a_model_that_selects_keys_stays_itself(kind, tmp_path):
    plain = built(kind, **SELECTING[kind])
    plain.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    ours = load_model(str(tmp_path), dtype=torch.float32, device=torch.device("cpu"))
    batch, expected = uneven(), alone(plain, uneven())
    torch.testing.assert_close(alone(ours, batch), expected, rtol=1e-4, atol=1e-4)  # and sampling
    scorer = scorer_for(ours)
    assert scorer.name == "oracle" and "selects which keys" in scorer.reason
    assert not is_installed(ours)
    with torch.no_grad():
        scored = oracle_path_logps(ours, batch)
    torch.testing.assert_close(scored, expected, rtol=1e-4, atol=1e-4)
    install(ours)  # negative control: under our name it attends to all keys
    assert (alone(ours, batch) - expected).abs().max() > 0.01
    uninstall(ours)
    torch.testing.assert_close(alone(ours, batch), expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_asks_for_its_attention_by_name_is_refused():
    model = tiny_model("llama")
    mlp = model.model.layers[0].mlp
    forward = type(mlp).forward

    def by_name(self, x):
        half = 0.5 if model.config._attn_implementation == "sdpa" else 0.51
        return half * forward(self, x)

    mlp.forward = MethodType(by_name, mlp)
    for dtype in (torch.float32, torch.bfloat16):
        answer, reason = takes_trees(model.to(dtype))
        assert not answer and "asks for its attention by name" in reason
        assert model.config._attn_implementation == "sdpa"


def leak(model, by: int, share: float) -> None:
    """Past attention: each token of the flat input gets a little of the one before or after it,
    as a convolution or a scan over the whole input would do."""
    layer = model.model.layers[0].mlp
    layer.register_forward_hook(lambda _, __, out: out + share * torch.roll(out, by, dims=-2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.3, 0.02])
def test_what_leaks_past_attention_is_found_in_any_precision(dtype, share):
    """The leak of 0.02 lies within the rounding of bfloat16, and is found to the bit."""
    model = tiny_model("llama", dtype=dtype)
    leak(model, 1, share)
    answer, reason = takes_trees(model)
    assert not answer
    assert "change with what lies beside" in reason or "differ by" in reason
    if dtype == torch.bfloat16 and share < 0.1:
        assert "change with what lies beside" in reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nothing_leaks_in_models_that_take_trees(name, dtype):
    answer, reason = takes_trees(tiny_model(name, dtype=dtype))
    assert answer, reason


@pytest.mark.parametrize("name", ["mistral", "gemma3", "qwen2_sliding"])
def test_windows_longer_than_the_probe_are_tried(name, monkeypatch):
    """A window that is one key too wide in trees shows only on paths that exceed it."""
    options = {"sliding_window": 64}
    assert takes_trees(tiny_model(name, **options))[0]
    real = attention.tree_attention

    def wider(layout, *args, sliding_window=None, **kwargs):
        if sliding_window is not None:
            layout.windows.add(sliding_window)
            sliding_window += 1
        return real(layout, *args, sliding_window=sliding_window, **kwargs)

    monkeypatch.setattr(attention, "tree_attention", wider)
    model = tiny_model(name, **options)
    answer, reason = takes_trees(model)
    assert not answer and "differ by" in reason
    windows = {getattr(m, "sliding_window", None) for m in model.modules()}
    assert windows <= {None, 64} and model.config.sliding_window == 64


PADDED = {
    "doge": {"keep_window_size": 16, "num_key_value_heads": 2},
    "prophetnet": {"num_hidden_layers": ..., "decoder_ffn_dim": 48, "num_decoder_layers": 2,
                   "num_decoder_attention_heads": 4,
                   "num_encoder_attention_heads": 4, "encoder_ffn_dim": 48,
                   "num_encoder_layers": 1, "is_decoder": True, "is_encoder_decoder": False,
                   "add_cross_attention": False, "disable_ngram_loss": False},
    "llama": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", PADDED)
def test_what_padding_changes_is_scored_without(kind):
    model = built(kind, **PADDED[kind])
    batch = uneven()
    expected = alone(copy.deepcopy(model), batch)
    with torch.no_grad():
        torch.testing.assert_close(oracle_path_logps(model, batch), expected, rtol=1e-4, atol=1e-4)
    shared = {"llama": "any", "prophetnet": "one length", "doge": "nothing"}
    assert sharing(model) == shared[kind]
    if kind != "llama":
        scorer = scorer_for(model)
        words = {"one length": "of one length share a call", "nothing": "is read by itself"}
        assert scorer.name == "oracle" and words[sharing(model)] in scorer.reason
        model._redpencil_sharing = "any"  # negative control
        with torch.no_grad():
            assert (oracle_path_logps(model, batch) - expected).abs().max() > 1e-3


REWARDS = {
    "xlnet": {
        "max_position_embeddings": ...,
        "n_layer": 2,
        "d_model": 32,
        "n_head": 4,
        "d_inner": 48,
    },
    "nystromformer": {"num_landmarks": 4, "segment_means_seq_len": 4},
    "fnet": {},
    "convbert": {"embedding_size": 32},
    "bert": {},
}


@pytest.mark.parametrize("kind", REWARDS)
def test_rewards_that_padding_changes_are_scored_without(kind):
    model = built(kind, AutoModelForSequenceClassification, **REWARDS[kind])
    batch = uneven()
    expected = rewards_alone(copy.deepcopy(model), batch)
    with torch.no_grad():
        torch.testing.assert_close(oracle_rewards(model, batch), expected, rtol=1e-4, atol=1e-4)
    assert sharing(model) == ("any" if kind == "bert" else "one length")
    assert reward_scorer_for(model).name == "oracle"


def test_gradients_of_parts_are_those_of_single_sequences():
    model = built("doge", **PADDED["doge"])
    batch = uneven()
    weights = torch.linspace(-1, 1, len(batch.path_token))

    def gradients(logps):
        model.zero_grad()
        (logps * weights).sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    ours = gradients(oracle_path_logps(model, batch))
    rows = []
    for e in batch.examples:
        for r in e.responses:
            row = torch.from_numpy(np.concatenate([e.prompt_ids, r.ids])).long()
            logps = model(input_ids=row[None], use_cache=False).logits[0, :-1].log_softmax(-1)
            rows.append(logps.gather(1, row[1:, None])[len(e.prompt_ids) - 1 :, 0])
    theirs = gradients(torch.cat(rows))
    assert ours.keys() == theirs.keys()
    largest = max(g.abs().max() for g in theirs.values())
    for name, grad in theirs.items():
        assert (ours[name] - grad).abs().max() <= 1e-4 * largest, name


def noisy(model):
    model.model.layers[0].mlp.register_forward_hook(lambda _, __, o: o + 0.1 * torch.randn_like(o))


def of_a_batch(model):
    """Something of all rows enters each, as with statistics of a batch."""
    model.model.layers[0].mlp.register_forward_hook(lambda _, __, o: o - o.mean((0, 1)))


def test_a_model_that_is_never_the_same_is_one_sentence():
    model = tiny_model("llama")
    noisy(model)
    for ask in (scorer_for, lambda m: oracle_path_logps(m, uneven())):
        with pytest.raises(ModelError, match="other numbers each time"), torch.no_grad():
            ask(model)


def test_a_model_that_looks_at_its_neighbours_is_asked_alone():
    model = tiny_model("llama")
    of_a_batch(model)
    batch = uneven()
    expected = alone(model, batch)
    assert "is read by itself" in scorer_for(model).reason
    with torch.no_grad():
        assert torch.equal(oracle_path_logps(model, batch), expected)


def test_the_name_of_a_refused_model_is_its_own():
    for name, before in (("bloom", "sdpa"), ("gpt_oss", "eager")):
        model = tiny_model(name)
        present = model.config._attn_implementation
        assert not takes_trees(model)[0]
        assert model.config._attn_implementation == present, before


def test_a_second_copy_needs_no_probe():
    """A reference that is loaded anew goes the way that was found for the first."""
    model = tiny_model("llama")
    batch = uneven()
    with torch.no_grad():
        again = path_logps(copy.deepcopy(model), batch)
        assert takes_trees(model)[0] and is_installed(model)
        assert torch.equal(path_logps(model, batch), again)
