"""The reference: cached = live, reused where nothing that matters changed, never where it did."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from redpencil.data.group import number_responses
from redpencil.data.loader import all_once
from redpencil.data.tree import lay_trees
from redpencil.errors import NonFiniteError
from redpencil.models.attention import install
from redpencil.models.lora import add_lora
from redpencil.scores.cache import ReferenceCache
from redpencil.scores.fingerprint import response_keys, weights_fingerprint
from redpencil.scores.forward import tree_logps
from redpencil.scores.reference import (
    adapter_off_reference,
    cached_reference,
    frozen_reference,
    reference_logps,
)
from zoo import random_examples, tiny_model


class Counting:
    """A scorer that counts the responses it was asked for."""

    def __init__(self):
        self.responses = 0

    def __call__(self, model, batch):
        self.responses += len(batch.lengths)
        return tree_logps(model, batch)


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REDPENCIL_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def model():
    made = tiny_model("llama")
    install(made)
    return made


def examples(n=6):
    return number_responses(random_examples(1, 2, prompts=n))


def values(model, examples, *, score=None, cache=None, max_tokens=60, track=None):
    return reference_logps(
        model,
        score or Counting(),
        examples,
        lay=lambda missing: all_once(missing, max_tokens),
        cache=cache,
        track=track or (lambda batches, total: batches),
    )


def test_cached_is_live(model, cache_folder):
    data = examples()
    first = values(model, data, cache=ReferenceCache.of(model))
    live = frozen_reference(model, tree_logps)
    for stored in (first, values(model, data, cache=ReferenceCache.of(model))):
        cached = cached_reference(stored)
        for batch in all_once(data, 60):  # the same micro-batches: the same bits
            assert torch.equal(cached(batch), live(batch))
        for batch in all_once(data, 10_000):
            torch.testing.assert_close(cached(batch), live(batch))


def test_a_second_pass_computes_nothing(model, cache_folder):
    data = examples()
    values(model, data, cache=ReferenceCache.of(model))
    counting = Counting()
    values(model, number_responses(reversed(data)), score=counting, cache=ReferenceCache.of(model))
    assert counting.responses == 0


def test_only_what_is_new_is_computed(model, cache_folder):
    data = examples()
    values(model, data[:4], cache=ReferenceCache.of(model))
    counting = Counting()
    values(model, data, score=counting, cache=ReferenceCache.of(model))
    assert counting.responses == 4


@pytest.mark.parametrize("what", ["prompt", "token", "mask", "truncation"])
def test_what_changed_is_computed_again(model, cache_folder, what):
    data = examples()
    values(model, data, cache=ReferenceCache.of(model))
    first = data[0]
    response = first.responses[0]
    if what == "prompt":
        changed = replace(first, prompt_ids=first.prompt_ids[::-1].copy())
    elif what == "token":
        ids = response.ids.copy()
        ids[-1] = 3 + (ids[-1] - 2) % 50
        changed = replace(first, responses=(replace(response, ids=ids), first.responses[1]))
    elif what == "mask":
        mask = response.scored.copy()
        mask[0] = False
        changed = replace(first, responses=(replace(response, scored=mask), first.responses[1]))
    else:
        changed = replace(first, prompt_ids=first.prompt_ids[1:])
    counting = Counting()
    fresh = values(model, [changed, *data[1:]], score=counting, cache=ReferenceCache.of(model))
    assert counting.responses == 2
    live = frozen_reference(model, tree_logps)(lay_trees([changed]))
    np.testing.assert_allclose(fresh[:2], live.numpy(), rtol=1e-5)


def test_the_fingerprint_is_of_the_function_and_nothing_else(model):
    own = weights_fingerprint(model)
    assert weights_fingerprint(tiny_model("llama")) == own  # loaded again, not even installed
    assert weights_fingerprint(add_lora(tiny_model("llama"), rank=2)) == own
    assert weights_fingerprint(tiny_model("llama").to(torch.bfloat16)) != own
    assert weights_fingerprint(tiny_model("llama", rms_norm_eps=1e-3)) != own
    other = tiny_model("llama")
    with torch.no_grad():
        other.lm_head.weight[3, 3] += 1e-6
    assert weights_fingerprint(other) != own


def test_adapters_off_is_the_base(model):
    batch = lay_trees(examples())
    base = tree_logps(model, batch).detach()
    wrapped = add_lora(model, rank=4)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert not torch.allclose(tree_logps(wrapped, batch), base)
    assert torch.equal(adapter_off_reference(wrapped, tree_logps)(batch), base)
    assert not torch.allclose(tree_logps(wrapped, batch), base)  # and on again


def test_a_killed_pass_goes_on_after_its_last_shard(model, cache_folder, monkeypatch):
    monkeypatch.setattr("redpencil.scores.reference.SHARD_RESPONSES", 4)

    def killed_after_three(batches, total):
        for number, batch in enumerate(batches):
            if number == 3:
                raise KeyboardInterrupt
            yield batch

    data = examples()
    with pytest.raises(KeyboardInterrupt):
        values(model, data, cache=ReferenceCache.of(model), max_tokens=12, track=killed_after_three)
    counting = Counting()
    got = values(model, data, score=counting, cache=ReferenceCache.of(model))
    assert 0 < counting.responses < 12
    np.testing.assert_allclose(got, values(model, data), rtol=1e-5)


def test_a_damaged_shard_is_computed_again_with_a_warning(model, cache_folder, capsys):
    data = examples()
    cache = ReferenceCache.of(model)
    right = values(model, data, cache=cache)
    (shard,) = cache.folder.glob("*.shard")
    shard.write_bytes(shard.read_bytes()[:-7])
    counting = Counting()
    again = values(model, data, score=counting, cache=ReferenceCache.of(model))
    assert counting.responses == 12
    np.testing.assert_array_equal(again, right)
    assert "is damaged and not used" in capsys.readouterr().err


def test_keys_do_not_run_into_each_other():
    one, two = random_examples(5, 1, prompts=2)
    moved = replace(
        one,
        prompt_ids=one.prompt_ids[:-1],
        responses=(
            replace(
                one.responses[0],
                ids=np.concatenate([one.prompt_ids[-1:], one.responses[0].ids]),
                scored=np.concatenate([[False], one.responses[0].scored]),
            ),
        ),
    )
    keys = response_keys([one, moved, two])
    assert len(set(keys.tolist())) == 3


def test_a_reference_that_is_not_finite_is_refused_and_not_kept(model, cache_folder):
    cache = ReferenceCache.of(model)
    with pytest.raises(NonFiniteError, match="the reference gives"):
        values(model, examples(), score=lambda m, b: tree_logps(m, b) * float("nan"), cache=cache)
    assert not cache.folder.exists()


def test_the_model_s_mode_is_kept(model):
    model.train()
    values(model, examples())
    assert model.training
