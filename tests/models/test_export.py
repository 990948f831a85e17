"""Saved models load with plain transformers, equal, and a failed save leaves nothing."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from redpencil.models.attention import install
from redpencil.models.export import save_model
from redpencil.models.lora import add_lora, merged_copy
from zoo import tiny_model, tiny_tokenizer

IDS = torch.tensor([[3, 9, 4, 30, 5]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral"])
@pytest.mark.parametrize("lora", [False, True])
def test_plain_transformers_loads_an_equal_model(tmp_path, name, lora):
    model = tiny_model(name)
    install(model)
    if lora:
        model = add_lora(model, rank=2)
        with torch.no_grad():
            for parameter_name, p in model.named_parameters():
                if "lora_B" in parameter_name:
                    p.normal_(std=0.3)
    save_model(model, tiny_tokenizer(), tmp_path / "out" / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    assert torch.equal(logits(loaded), logits(merged_copy(model)))
    assert "redpencil" not in loaded.config._attn_implementation
    assert not list((tmp_path / "out" / "model").glob("*adapter*"))


def test_tokenizer_dtype_ties_and_generation_config_come_along(tmp_path):
    model = tiny_model("llama", tie_word_embeddings=True, dtype=torch.bfloat16)
    model.generation_config.top_p = 0.7
    model.generation_config.do_sample = True
    tokenizer = tiny_tokenizer()
    save_model(model, tokenizer, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.dtype == torch.bfloat16 and loaded.generation_config.top_p == 0.7
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    again = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert again.chat_template == tokenizer.chat_template and again.get_vocab()["w9"] == 9
    assert not list((tmp_path / "model").glob("*.bin"))


def test_a_failed_save_keeps_the_old_folder_whole(tmp_path, monkeypatch):
    save_model(tiny_model("llama"), tiny_tokenizer(), tmp_path / "model")
    before = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model"))

    class Full:
        def save_pretrained(self, folder):
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        save_model(tiny_model("llama", seed=1), Full(), tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(after), before)


def test_an_existing_folder_is_replaced_whole(tmp_path):
    save_model(tiny_model("llama"), tiny_tokenizer(), tmp_path / "model")
    (tmp_path / "model" / "stale.txt").write_text("old")
    save_model(tiny_model("llama", seed=1), tiny_tokenizer(), tmp_path / "model")
    assert not (tmp_path / "model" / "stale.txt").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(loaded), logits(tiny_model("llama", seed=1)))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_files_can_be_read_by_others(tmp_path):
    save_model(tiny_model("llama"), tiny_tokenizer(), tmp_path / "model")
    (tmp_path / "plain").write_text("")
    expected = (tmp_path / "plain").stat().st_mode
    assert {p.stat().st_mode for p in (tmp_path / "model").iterdir()} == {expected}
