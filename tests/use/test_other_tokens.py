"""Models that do not read the same token ids, or not all of them: no command scores them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

import redpencil as rp
from redpencil.cli.main import main
from redpencil.use.standing import reward_and_kl


def complaint(capsys, *command) -> str:
    assert main([str(part) for part in command]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and "Traceback" not in said
    return said


@pytest.fixture(scope="module")
def shuffled(base, tmp_path_factory) -> Path:
    """The same model, with its words under each other's ids."""
    folder = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(base, folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = whole["model"]["vocab"]
    kept = {token["content"] for token in whole["added_tokens"]}
    words = [word for word in vocabulary if word not in kept]
    ids = [vocabulary[word] for word in words]
    vocabulary.update(zip(words, reversed(ids), strict=True))
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    return folder


@pytest.fixture(scope="module")
def small(base, tmp_path_factory) -> Path:
    """A model with fewer embeddings than its tokenizer has words, but for the special ones."""
    folder = tmp_path_factory.mktemp("small") / "model"
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(12)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def test_a_reference_reads_the_policys_tokens_in_every_command(
    base, shuffled, pairs, tmp_path, capsys
):
    message = f"the reference {shuffled} has another tokenizer than {base}"
    data = ("--data", pairs)
    assert message in complaint(capsys, "eval", base, *data, "--reference", shuffled)
    named = ("--model", base, "--reference", shuffled)
    assert message in complaint(capsys, "dpo", *named, *data, "--out", tmp_path / "run")
    assert message in complaint(capsys, "plan", *named, *data)
    assert not (tmp_path / "run").exists()
    with pytest.raises(rp.ModelError, match="has another tokenizer than the policy"):
        reward_and_kl(rp.load(base), rp.load(shuffled), ["The"], lambda *_: [0.0])
    assert main(["eval", str(base), "--data", str(pairs), "--reference", str(base)]) == 0


def test_a_token_without_an_embedding_is_one_sentence_in_every_command(
    small, base, pairs, tmp_path, capsys
):
    knows = "knows only ids below 12; the tokenizer belongs to another model"
    data = ("--data", pairs)
    out = ("--out", tmp_path / "out")
    assert knows in complaint(capsys, "eval", small, *data)
    assert knows in complaint(capsys, "eval", base, *data, "--reference", small)
    assert knows in complaint(capsys, "dpo", "--model", small, *data, *out)
    assert knows in complaint(capsys, "dpo", "--model", base, "--reference", small, *data, *out)
    assert knows in complaint(capsys, "generate", small, "--prompt", "The plot was superb")
    assert knows in complaint(
        capsys, "judge", small, base, *data, "--by", "answer", *out, "--max-new-tokens", "8"
    )
    with pytest.raises(rp.ModelError, match="knows only ids below 12"):
        rp.logps(rp.load(small), [{"prompt": "The", "chosen": " plot", "rejected": " plots"}])
    model = AutoModelForSequenceClassification.from_pretrained(small, num_labels=1)
    model.save_pretrained(tmp_path / "reward")
    AutoTokenizer.from_pretrained(small).save_pretrained(tmp_path / "reward")
    assert knows in complaint(capsys, "eval", tmp_path / "reward", *data)
    sides = ("judge", "data:responses", "data:responses", *data)
    assert knows in complaint(capsys, *sides, "--by", tmp_path / "reward", "--out", tmp_path / "j")


def test_a_reference_with_fewer_learned_positions_is_one_sentence(base, pairs, tmp_path, capsys):
    tokenizer = AutoTokenizer.from_pretrained(base)
    for positions in (8, 256):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=positions,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        GPT2LMHeadModel(config).save_pretrained(tmp_path / str(positions))
        tokenizer.save_pretrained(tmp_path / str(positions))
    reference = ("--reference", tmp_path / "8")
    said = complaint(capsys, "eval", tmp_path / "256", "--data", pairs, *reference)
    assert "the reference has learned 8 positions" in said
    named = ("--model", tmp_path / "256", *reference, "--data", pairs, "--out", tmp_path / "run")
    assert "has learned 8 positions" in complaint(capsys, "dpo", *named)
