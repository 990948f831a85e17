"""The cache on disk: damage, two writers, millions of keys, what a fingerprint sees."""

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from redpencil.data.group import number_responses
from redpencil.data.loader import all_once
from redpencil.models.attention import install
from redpencil.models.load import disable_dropout
from redpencil.models.lora import add_lora
from redpencil.places import cache_folder
from redpencil.scores import shards
from redpencil.scores.cache import ReferenceCache
from redpencil.scores.fingerprint import weights_fingerprint
from redpencil.scores.forward import tree_logps
from redpencil.scores.oracle import oracle_logps
from redpencil.scores.reference import frozen_reference, reference_logps
from redpencil.scores.shards import SUFFIX, Shard, open_folder
from zoo import random_examples, tiny_model


def keys_of(*numbers: int) -> np.ndarray:
    digests = [hashlib.blake2b(str(n).encode(), digest_size=16).digest() for n in numbers]
    return np.frombuffer(b"".join(digests), dtype="V16")


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def test_many_keys_are_found_and_others_are_not(tmp_path):
    numbers = np.random.default_rng(0).permutation(20_000)
    cache = ReferenceCache(tmp_path)
    for part in np.split(numbers[:15_000], 5):
        cache.add(keys_of(*part), part.astype(np.float32))
    values, found = ReferenceCache(tmp_path).find(keys_of(*range(20_000)))
    assert set(np.flatnonzero(found)) == set(numbers[:15_000])
    assert (values[found] == np.flatnonzero(found)).all()


def test_an_equal_first_half_is_not_an_equal_key(tmp_path):
    pair = np.frombuffer(b"A" * 16 + b"A" * 8 + b"B" * 8, dtype="V16")
    ReferenceCache(tmp_path).add(pair[:1], floats(1))
    assert ReferenceCache(tmp_path).find(pair)[1].tolist() == [True, False]


def test_one_flipped_byte_is_noticed(tmp_path, capsys):
    ReferenceCache(tmp_path).add(keys_of(1), floats(-1))
    ReferenceCache(tmp_path).add(keys_of(2), floats(-2))
    shard = sorted(tmp_path.glob(f"*{SUFFIX}"))[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    assert ReferenceCache(tmp_path).find(keys_of(1, 2))[1].sum() == 1
    assert f"{shard} is damaged and not used (its checksum is wrong)" in capsys.readouterr().err


@pytest.mark.parametrize("left", [0, 7, 100, 250])
def test_what_is_cut_off_is_noticed(tmp_path, capsys, left):
    ReferenceCache(tmp_path).add(keys_of(*range(9)), floats(*range(9)))
    (shard,) = tmp_path.iterdir()
    shard.write_bytes(shard.read_bytes()[:left])
    assert not ReferenceCache(tmp_path).find(keys_of(*range(9)))[1].any()
    assert f"{shard} is damaged and not used" in capsys.readouterr().err
    assert shard.exists()


def test_several_become_one_that_is_mapped(tmp_path):
    for number in range(4):  # 50 in each
        Shard.of(keys_of(number, 50), floats(number, 50)).write(tmp_path)
    Shard.of(keys_of(60), floats(60)).write(tmp_path)
    before = set(tmp_path.iterdir())
    shard = open_folder(tmp_path)
    (one,) = tmp_path.iterdir()
    assert one not in before and shard.first.tolist() == sorted(shard.first.tolist())
    assert isinstance(shard.first, np.memmap) and not shard.first.flags.writeable
    values, found = shard.find(keys_of(0, 1, 2, 3, 50, 60, 70))
    assert values[:6].tolist() == [0, 1, 2, 3, 50, 60] and found.tolist() == [True] * 6 + [False]
    again = open_folder(tmp_path)
    assert [*tmp_path.iterdir()] == [one] and again.checksum() == shard.checksum()


def test_shards_that_cannot_be_removed_do_not_pile_up(tmp_path, monkeypatch):
    """Another user's, in a folder that all may write to."""
    for number in range(2):
        Shard.of(keys_of(number, 9), floats(number, number)).write(tmp_path)

    def refused(self, missing_ok=False):
        if self.suffix == SUFFIX:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refused)
    for _ in range(3):
        values, found = open_folder(tmp_path).find(keys_of(0, 1, 9))
        assert found.all() and values.tolist() == [0, 1, 0]  # of two values the older
        assert len([*tmp_path.glob(f"*{SUFFIX}")]) == 3


def test_nothing_is_removed_for_a_merged_shard_that_is_damaged(tmp_path, monkeypatch):
    for number in range(2):
        Shard.of(keys_of(number), floats(number)).write(tmp_path)
    before = sorted(tmp_path.iterdir())
    write = Shard.write

    def damaged(self, folder, name=None):
        path = write(self, folder, name)
        path.write_bytes(path.read_bytes()[:-1])
        return path

    monkeypatch.setattr(Shard, "write", damaged)
    assert open_folder(tmp_path).find(keys_of(0, 1))[0].tolist() == [0, 1]
    assert set(before) < set(tmp_path.iterdir())


def test_where_nothing_can_be_written_they_are_merged_in_memory(tmp_path, monkeypatch):
    for number in range(2):
        Shard.of(keys_of(number), floats(number)).write(tmp_path)

    def full(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Shard, "write", full)
    assert open_folder(tmp_path).find(keys_of(0, 1))[0].tolist() == [0, 1]
    assert len([*tmp_path.iterdir()]) == 2


def test_shards_that_another_process_merges_meanwhile(tmp_path, monkeypatch):
    """Listed, but gone when they are opened."""
    for number in range(3):
        Shard.of(keys_of(number), floats(number)).write(tmp_path)
    mapped, merged = shards._mapped, []

    def late(path):
        if not merged:
            merged.append(path)
            open_folder(tmp_path)
        return mapped(path)

    monkeypatch.setattr(shards, "_mapped", late)
    assert open_folder(tmp_path).find(keys_of(0, 1, 2))[0].tolist() == [0, 1, 2]
    assert merged


def test_two_writers_at_once(tmp_path):
    def write(number):
        cache = ReferenceCache(tmp_path)
        for step in range(5):
            cache.add(keys_of(7, 100 * number + step), floats(7, step))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(p.suffix == SUFFIX for p in tmp_path.iterdir())  # nothing half-written is left
    values, found = ReferenceCache(tmp_path).find(keys_of(7, 104, 204, 304))
    assert found.all() and values.tolist() == [7, 4, 4, 4]


def test_a_folder_that_cannot_be_written_is_done_without_and_said_once(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("REDPENCIL_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        cache = ReferenceCache.of(tiny_model("llama"))
        cache.add(keys_of(1), floats(1))
        cache.add(keys_of(2), floats(2))
    said = capsys.readouterr().err
    assert said.count("no cache: ") == 1, said
    assert f"{tmp_path}/file cannot be written" in said
    assert not cache.find(keys_of(1))[1].any()


def test_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.delenv("REDPENCIL_CACHE", raising=False)
    assert cache_folder().parts[-2:] == (".cache", "redpencil")
    monkeypatch.setenv("REDPENCIL_CACHE", str(tmp_path))
    model = tiny_model("llama")
    plain = ReferenceCache.of(model).folder
    assert plain == tmp_path / "reference" / weights_fingerprint(model)
    assert ReferenceCache.of(model, autocast=torch.bfloat16).folder != plain


def reference(model, examples, cache=None, track=lambda batches, total: batches):
    return reference_logps(
        model,
        tree_logps,
        examples,
        lay=lambda missing: all_once(missing, 40),
        cache=cache,
        track=track,
    )


def test_an_interrupted_pass_keeps_all_it_computed(tmp_path):
    model = tiny_model("llama")
    install(model)
    examples = number_responses(random_examples(1, 2, prompts=6))
    sizes = []

    def stopped(batches, total):
        for batch in batches:
            if sum(sizes) >= 4:
                raise KeyboardInterrupt
            sizes.append(len(batch.lengths))
            yield batch

    with pytest.raises(KeyboardInterrupt):
        reference(model, examples, ReferenceCache(tmp_path), stopped)
    left = []

    def counted(batches, total):
        for batch in batches:
            left.append(len(batch.lengths))
            yield batch

    resumed = reference(model, examples, ReferenceCache(tmp_path), counted)
    assert sum(sizes) + sum(left) == 12 and sum(left) > 0
    np.testing.assert_allclose(resumed, reference(model, examples), rtol=1e-5)


def test_equal_responses_have_one_value_which_an_interrupted_pass_finds_again(tmp_path):
    """The same rows twice: rounding may differ between micro-batches, the first one counts."""
    model = tiny_model("llama")
    install(model)
    examples = number_responses([*random_examples(1, 2, prompts=3)] * 2)
    calls = []

    def rounded(model, batch):
        calls.append(len(batch.lengths))
        return tree_logps(model, batch) * (1 + 1e-6 * len(calls))

    def values(cache, track=lambda batches, total: batches):
        calls.clear()
        return reference_logps(
            model, rounded, examples, lay=lambda missing: all_once(missing, 12), cache=cache,
            track=track,
        )  # fmt: skip

    whole = values(ReferenceCache(tmp_path / "whole"))
    np.testing.assert_array_equal(whole[:6], whole[6:])
    np.testing.assert_array_equal(values(ReferenceCache(tmp_path / "whole")), whole)

    def stopped(batches, total):
        yield next(iter(batches))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        values(ReferenceCache(tmp_path / "part"), stopped)
    first = calls[0]
    resumed = values(ReferenceCache(tmp_path / "part"))
    assert (resumed == whole).sum() >= first
    np.testing.assert_array_equal(resumed[:6], resumed[6:])


def test_micro_batches_may_come_in_any_order():
    model = tiny_model("llama")
    install(model)
    examples = number_responses(random_examples(2, 3, prompts=5))
    backwards = reference_logps(
        model,
        oracle_logps,
        examples,
        lay=lambda missing: list(all_once(missing, 40))[::-1],
        cache=None,
        track=lambda batches, total: batches,
    )
    np.testing.assert_allclose(backwards, reference(model, examples), rtol=1e-4)


def test_a_trained_adapter_does_not_reach_the_reference():
    """Adapters are not in the fingerprint, so they must not be in the values."""
    model = tiny_model("llama")
    install(model)
    examples = number_responses(random_examples(1, 2, prompts=3))
    base = reference(model, examples)
    wrapped = add_lora(model, rank=2)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    np.testing.assert_array_equal(reference(wrapped, examples), base)


def test_dropout_is_off_in_a_reference_and_modes_come_back():
    model = tiny_model("gpt2")
    install(model)
    batch = next(all_once(number_responses(random_examples(1, 2)), 1000))
    calm = tree_logps(model, batch).detach()
    model.train()
    model.transformer.h[1].eval()
    modes = [m.training for m in model.modules()]
    value = frozen_reference(model, tree_logps)(batch)
    assert torch.equal(value, calm) and not value.requires_grad
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mixtral"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_fingerprint_does_not_see_adapters_dropout_or_the_attention_function(name, tied):
    own = weights_fingerprint(tiny_model(name, tie_word_embeddings=tied))
    model = tiny_model(name, tie_word_embeddings=tied)
    install(model)
    disable_dropout(model)
    model.config.use_cache = False
    model.config._name_or_path = "elsewhere"
    assert weights_fingerprint(model) == own
    assert weights_fingerprint(add_lora(model, rank=2)) == own


def test_a_fingerprint_survives_saving_and_loading(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    assert weights_fingerprint(type(model).from_pretrained(tmp_path)) == weights_fingerprint(model)


def test_a_fingerprint_sees_every_parameter():
    seen = {weights_fingerprint(tiny_model("qwen2"))}
    names = [name for name, _ in tiny_model("qwen2").named_parameters()]
    for name in names:
        model = tiny_model("qwen2", dtype=torch.float32)
        with torch.no_grad():
            model.get_parameter(name).flatten()[-1].add_(0.5)
        seen.add(weights_fingerprint(model))
    assert len(seen) == len(names) + 1


class WithScales(torch.nn.Module):
    """A quantised layer: its scales are no parameter and no buffer, and are saved all the same."""

    def __init__(self, scale):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.uint8), requires_grad=False)
        self.scale = torch.full((4,), scale)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight.absmax"] = self.scale
        destination[prefix + "weight.kind"] = "not a tensor"


class WithTensorOfTensors(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        twin = TwoTensor(torch.ones(4, 4), torch.full((4, 4), scale))
        self.weight = torch.nn.Parameter(twin, requires_grad=False)


@pytest.mark.parametrize("layer", [WithScales, WithTensorOfTensors])
def test_a_fingerprint_sees_the_scales_of_quantised_weights(layer):
    def fingerprint(scale):
        model = tiny_model("llama")
        model.model.layers[0].mlp.down_proj = layer(scale)
        return weights_fingerprint(model)

    assert fingerprint(0.5) == fingerprint(0.5)
    assert fingerprint(0.5) != fingerprint(0.25)
