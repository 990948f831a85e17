"""A padding token that no response ends with."""

import pytest
import torch

from redpencil.models.padding import NEW_PAD, settle_padding
from zoo import tiny_model, tiny_tokenizer


def test_a_token_of_its_own_is_kept():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    assert settle_padding(model, tokenizer, [2, 5]) is None
    assert tokenizer.pad_token_id == model.config.pad_token_id == 0


def test_the_end_token_does_not_pad():
    model = tiny_model("llama", pad_token_id=2)
    tokenizer = tiny_tokenizer(pad_token="</s>")
    said = settle_padding(model, tokenizer, [2])
    assert "'<pad>' (id 0): a response can end with the one there was" in said
    assert tokenizer.pad_token_id == model.config.pad_token_id == 0


def test_a_model_that_had_none_is_given_one():
    model = tiny_model("llama", pad_token_id=None)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    assert settle_padding(model, tokenizer, []).endswith("there was none")
    assert model.config.pad_token_id == 0


def test_where_no_token_is_free_the_vocabulary_grows_by_one_row_of_zeros():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    rows = model.get_input_embeddings().weight.shape[0]
    said = settle_padding(model, tokenizer, [0, 2])  # responses that end with <pad>
    assert "added to the vocabulary" in said
    assert tokenizer.pad_token == NEW_PAD
    embedding = model.get_input_embeddings().weight
    assert embedding.shape[0] == tokenizer.pad_token_id + 1 == rows + 1
    assert torch.equal(embedding[-1], torch.zeros_like(embedding[-1]))
    again = settle_padding(model, tokenizer, [0, 2])
    assert again is None


@pytest.mark.parametrize("ends", [[], [0]])
def test_what_pads_never_ends(ends):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    settle_padding(model, tokenizer, ends)
    assert tokenizer.pad_token_id not in {*ends, tokenizer.eos_token_id}
