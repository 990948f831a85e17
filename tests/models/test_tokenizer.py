"""Tokenizers that can be used, and how many positions a model has."""

import json
import sys

import pytest

from redpencil.errors import ModelError
from redpencil.models.export import save_model
from redpencil.models.tokenizer import context_length, load_tokenizer
from zoo import tiny_model, tiny_tokenizer


def test_a_bound_that_no_config_sets(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bloom"}')
    assert context_length(str(tmp_path)) == sys.maxsize


def test_positions_behind_the_padding_id_are_not_counted(tmp_path):
    config = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_length(str(tmp_path)) == 512


def test_a_tokenizer_that_cannot_be_used_is_one_sentence(tmp_path):
    folder = tmp_path / "model"
    save_model(tiny_model("llama"), tiny_tokenizer(), folder)
    assert context_length(str(folder)) == 128
    assert load_tokenizer(str(folder)).convert_tokens_to_ids(["w7"]) == [7]
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="has no usable tokenizer"):
        load_tokenizer(str(folder))
    tiny_tokenizer(eos_token=None).save_pretrained(folder)
    with pytest.raises(ModelError, match='name one as "eos_token"'):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
    ],
)
@pytest.mark.parametrize("content", ["{", "[1]", "3", "", "null"])
def test_a_damaged_file_beside_the_weights_is_named(tmp_path, name, content):
    """Of generation_config.json transformers would go on without the end tokens in it."""
    folder = tmp_path / "model"
    tiny_tokenizer().save_pretrained(folder)
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=f"{name} (is not valid JSON|holds .*, not a JSON object)"):
        load_tokenizer(str(folder))
