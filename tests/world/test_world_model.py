import random

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from redpencil.world.grammar import review
from redpencil.world.model import MAX_POSITIONS, fresh_model
from redpencil.world.pairs import label_pairs, prefixes, sft_rows
from redpencil.world.tokenizer import world_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return world_tokenizer()


def test_text_comes_back_and_cuts_where_it_is_cut(tokenizer):
    for row in sft_rows(300, seed=1):
        text = row["prompt"] + row["completion"]
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        prompt = tokenizer(row["prompt"]).input_ids
        completion = tokenizer(row["completion"], add_special_tokens=False).input_ids
        assert prompt + completion == ids
        assert len(ids) + 1 <= MAX_POSITIONS


def test_unknown_words_are_unknown(tokenizer):
    ids = tokenizer("The zebra was superb.", add_special_tokens=False).input_ids
    assert ids[1] == tokenizer.unk_token_id and ids.count(tokenizer.unk_token_id) == 1


def test_saved_and_loaded_by_the_plain_auto_classes(tokenizer, tmp_path):
    model = fresh_model(tokenizer, seed=0)
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = review(random.Random(3))
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert again(text).input_ids == ids[0].tolist()
    assert again.decode(ids[0], skip_special_tokens=True) == text
    assert again.eos_token_id == tokenizer.eos_token_id != again.pad_token_id
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=0)


def test_fresh_models_are_seeded_and_leave_the_random_state(tokenizer):
    before = torch.random.get_rng_state()
    one, two, other = (fresh_model(tokenizer, seed) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.lm_head.weight, two.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert 0.5e6 < one.num_parameters() < 1.5e6


def test_prefixes_are_different_and_disjoint():
    train = prefixes(300, seed=1)
    held_out = prefixes(100, seed=2, exclude=train)
    assert len({*train, *held_out}) == 400
    assert prefixes(300, seed=1) == train
    assert all(2 <= len(p.replace(",", "").split()) <= 8 for p in train)


def test_labels_follow_bradley_terry():
    rng = random.Random(0)
    rows = [label_pairs("p", ["a", "b"], [1.0, 0.0], rng) for _ in range(4000)]
    wins = np.mean([row["comparisons"] == [[0, 1]] for row in rows])
    chance = 1 / (1 + np.exp(-1))
    assert wins == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 4000) ** 0.5)


def test_labels_of_four_completions():
    row = label_pairs("p", ["a", "b", "a", "c"], [0.0, 2.0, 0.0, -1.0], random.Random(0), 0.0)
    assert row["prompt"] == "p" and row["responses"] == ["a", "b", "a", "c"]
    assert row["comparisons"] == [[1, 0], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert label_pairs("p", ["a", "b"], [1.0, 1.0], random.Random(0), 0.0)["comparisons"] == []
    certain = label_pairs("p", ["a", "b"], [-900.0, 900.0], random.Random(0), 0.5)
    assert certain["comparisons"] == [[1, 0]]
