"""LongRoPE and dynamic scaling turn positions by the longest of a call: a response's numbers are
those of its own sequence all the same, whatever shares its micro-batch."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from redpencil.cli.main import main
from redpencil.data.tree import lay_trees
from redpencil.models.attention import install
from redpencil.models.load import equip
from redpencil.models.positions import frequency_key
from redpencil.scores import parts
from redpencil.scores.features import oracle_features, tree_features
from redpencil.scores.forward import path_logps, path_logps_and_values, scorer_for, tree_logps
from redpencil.scores.oracle import oracle_logps, oracle_path_logps
from redpencil.scores.rewards import oracle_rewards, tree_rewards
from zoo import VOCABULARY, example, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

BOUND = 16

SCALED = {
    "longrope": ("phi3", {
        "sliding_window": None, "original_max_position_embeddings": BOUND,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
            "long_factor": [1.0, 4.0, 16.0, 60.0], "original_max_position_embeddings": BOUND,
        },
    }),
    "dynamic": ("llama", {
        "max_position_embeddings": BOUND,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    }),
}  # fmt: skip


def scaled(kind):
    name, options = SCALED[kind]
    model = tiny_model(name, **options)
    equip(model)
    return model


def batch_of(*lengths, prompt=5, feed_last=False):
    """Trees of two responses whose paths have so many tokens."""
    ids = np.random.default_rng(0).integers(3, VOCABULARY, 5000).tolist()
    trees = []
    for i in range(0, len(lengths), 2):
        at = 300 * i
        responses = [
            ids[at + 100 * k + 20 : at + 100 * k + 20 + n - prompt]
            for k, n in enumerate(lengths[i : i + 2])
        ]
        trees.append(example(ids[at : at + prompt], *responses))
    return lay_trees(trees, feed_last=feed_last)


def fresh(model, batch, read):
    """`read(a copy of the model, row, prompt tokens)` of each sequence by itself."""
    found = []
    for e in batch.examples:
        for r in e.responses:
            row = torch.from_numpy(np.concatenate([e.prompt_ids, r.ids])).long()
            with torch.no_grad():
                found.append(read(copy.deepcopy(model), row, len(e.prompt_ids)))
    return found


def its_logps(model, row, prompt):
    logps = model(input_ids=row[None], use_cache=False).logits[0, :-1].log_softmax(-1)
    return logps.gather(1, row[1:, None])[prompt - 1 :, 0]


MIXED = (9, 30, BOUND, BOUND + 1, 12, 40, 30, 8)


@pytest.mark.parametrize("kind", SCALED)
def test_numbers_are_those_of_the_sequence_alone(kind):
    model = scaled(kind)
    install(model)
    batch = batch_of(*MIXED)
    each = fresh(model, batch, its_logps)
    sums = torch.stack([e.sum() for e in each])
    with torch.no_grad():
        for score in (tree_logps, oracle_logps, tree_logps):
            torch.testing.assert_close(score(model, batch), sums, rtol=1e-4, atol=1e-4)
        for score in (path_logps, oracle_path_logps):
            torch.testing.assert_close(score(model, batch), torch.cat(each), rtol=1e-4, atol=1e-4)
        head = torch.nn.Linear(32, 1)
        logps, values = path_logps_and_values(model, head, batch)
        torch.testing.assert_close(logps, torch.cat(each), rtol=1e-4, atol=1e-4)
        assert values.shape == logps.shape


@pytest.mark.parametrize("kind", SCALED)
def test_without_parts_they_are_not(kind, monkeypatch):
    """Negative control."""
    model = scaled(kind)
    install(model)
    batch = batch_of(*MIXED)
    sums = torch.stack([e.sum() for e in fresh(model, batch, its_logps)])
    monkeypatch.setattr(parts, "frequency_key", lambda model: None)
    with torch.no_grad():
        for score in (tree_logps, oracle_logps):
            assert (score(model, batch) - sums).abs().max() > 0.05


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(6, 40), min_size=2, max_size=8).filter(lambda n: len(n) % 2 == 0))
def test_any_mixture_of_lengths(lengths):
    for kind in SCALED:
        model = MODELS.setdefault(kind, scaled(kind))
        install(model)
        batch = batch_of(*lengths)
        with torch.no_grad():
            tree, padded = path_logps(model, batch), oracle_path_logps(model, batch)
        torch.testing.assert_close(tree, padded, rtol=1e-4, atol=1e-4)


MODELS: dict[str, torch.nn.Module] = {}


@pytest.mark.parametrize("kind", SCALED)
def test_rewards_and_features_too(kind):
    name, options = SCALED[kind]
    base = tiny_model(name, **options)
    config = CONFIG_MAPPING[name].from_dict({**base.config.to_dict(), "num_labels": 1})
    model = AutoModelForSequenceClassification.from_config(config).eval()
    getattr(model, model.base_model_prefix).load_state_dict(base.model.state_dict())
    equip(model)
    install(model)
    batch = batch_of(*MIXED, feed_last=True)
    expected = fresh(model, batch, lambda m, row, _: m(input_ids=row[None]).logits[0, 0])
    with torch.no_grad():
        for score in (tree_rewards, oracle_rewards):
            torch.testing.assert_close(
                score(model, batch), torch.stack(expected), rtol=1e-4, atol=1e-4
            )
        torch.testing.assert_close(
            tree_features(model, batch), oracle_features(model, batch), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("kind", SCALED)
def test_gradients_are_those_of_the_sequences(kind):
    model = scaled(kind)
    batch = batch_of(*MIXED)

    def gradients(score):
        model.zero_grad()
        score(model, batch).square().mean().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters()}

    tree, padded = gradients(tree_logps), gradients(oracle_logps)
    largest = max(g.abs().max() for g in padded.values())
    for name, grad in padded.items():
        assert (tree[name] - grad).abs().max() <= 1e-4 * largest, name


def test_one_side_of_the_bound_is_one_call(monkeypatch):
    """What needs no cut is scored as it was laid."""
    model = scaled("longrope")
    cut = []
    real = parts._apart
    monkeypatch.setattr(parts, "_apart", lambda *a, **k: cut.append(a) or real(*a, **k))
    key = frequency_key(model)
    assert [key(n) for n in (1, BOUND, BOUND + 1, 99)] == [0, 0, -1, -1]
    assert frequency_key(tiny_model("llama")) is None
    with torch.no_grad():
        tree_logps(model, batch_of(9, 12))
        tree_logps(model, batch_of(BOUND, BOUND - 1))
        tree_logps(model, batch_of(30, BOUND + 1))
        assert not cut
        tree_logps(model, batch_of(BOUND + 1, BOUND + 1))  # fed without its last token: within
        tree_logps(model, batch_of(BOUND, BOUND + 1))
        assert len(cut) == 2


@pytest.mark.parametrize("scoring", ["tree", "oracle"])
def test_a_first_loss_is_ln_2(tmp_path, monkeypatch, scoring):
    """At no rate to speak of every loss is; the reference pass and the steps cut other batches."""
    monkeypatch.setenv("REDPENCIL_CACHE", str(tmp_path / "cache"))
    scaled("longrope").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    words = np.random.default_rng(1).integers(3, VOCABULARY, (12, 60))
    with open(tmp_path / "pairs.jsonl", "w") as file:
        for i, row in enumerate(words):
            text = [f"w{w}" for w in row]
            long, short = " ".join(text[5 : 20 + 2 * i]), " ".join(text[50 : 53 + i % 4])
            sides = (long, short) if i % 2 else (short, long)
            pair = {"prompt": " ".join(text[:5]), "chosen": sides[0], "rejected": sides[1]}
            file.write(json.dumps(pair) + "\n")
    options = "--max-steps 3 --batch-size 4 --sample-prompts 0 --eval-fraction 0 --max-tokens 120"
    command = ["dpo", "--model", tmp_path / "base", "--data", tmp_path / "pairs.jsonl"]
    command += ["--out", tmp_path / "run", "--learning-rate", "1e-12", "--scoring", scoring]
    assert main([*map(str, command), *options.split()]) == 0
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["loss"] for row in rows if '"loss"' in row]
    assert losses and losses == pytest.approx([np.log(2)] * len(losses), abs=1e-4)


def test_the_probe_takes_trees_of_both():
    for kind in SCALED:
        assert scorer_for(scaled(kind)).name == "tree"
