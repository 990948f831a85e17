"""Adapter folders as models: merged and trainable, or refused in one sentence."""

import json
import shutil

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from redpencil.errors import ModelError
from redpencil.models.check import check_model, gives_reward
from redpencil.models.export import save_model
from redpencil.models.load import load_model
from zoo import tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
IDS = torch.tensor([[3, 9, 4, 30, 5]])


def load(folder, **options):
    return load_model(str(folder), dtype=torch.float32, device=CPU, **options)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    save_model(tiny_model("llama"), tiny_tokenizer(), folder)
    return folder


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tied") / "model"
    save_model(tiny_model("llama", tie_word_embeddings=True), tiny_tokenizer(), folder)
    return folder


def adapter_on(model, config, folder):
    """The adapter, saved with noise for training; returns what the adapted model says."""
    torch.manual_seed(0)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    adapted.eval().save_pretrained(folder)
    return logits(adapted)


def lora(base, folder, **options):
    settings = {"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    model = AutoModelForCausalLM.from_pretrained(base)
    return adapter_on(model, LoraConfig(**settings | options), folder)


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v != "gone"}))


def refusal(folder, **options) -> str:
    """The sentence of a folder that must not load; asking first says it, or says nothing yet."""
    with pytest.raises(ModelError) as caught:
        load(folder, **options)
    said = str(caught.value)
    assert "\n" not in said and str(folder) in said
    return said


MERGED = ["LORA", "ADALORA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "OFT", "VERA"]
REFUSED = {
    "PROMPT_TUNING": "cannot be merged",
    "P_TUNING": "cannot be merged",
    "PREFIX_TUNING": "cannot be merged",
    "LILY": "not supported",
    "BEFT": "Base layer has no bias",
}


def of_kind(kind, base, folder):
    """An adapter of that kind; what its model says, or None where it has no tokens of its own."""
    config = {str(k.value): c for k, c in PEFT_TYPE_TO_CONFIG_MAPPING.items()}.get(kind)
    if config is None:
        pytest.skip(f"peft {peft.__version__} has no {kind}")
    fields = config.__dataclass_fields__
    options = {
        "target_modules": ["q_proj", "v_proj"],
        "feedforward_modules": [],
        "num_virtual_tokens": 3,
        "total_step": 10,
    }
    chosen = {k: v for k, v in options.items() if k in fields}
    model = AutoModelForCausalLM.from_pretrained(base)
    return adapter_on(model, config(task_type="CAUSAL_LM", **chosen), folder)


@pytest.mark.parametrize("kind", MERGED)
def test_every_kind_that_weights_can_hold_is_merged_and_trains(kind, base, tmp_path):
    adapted = of_kind(kind, base, tmp_path / "adapter")
    assert (adapted - logits(load(base))).abs().max() > 0.01  # the adapter does something
    check_model(str(tmp_path / "adapter"))
    model = load(tmp_path / "adapter")
    torch.testing.assert_close(logits(model), adapted, rtol=1e-4, atol=1e-4)
    assert all(parameter.requires_grad for parameter in model.parameters())
    save_model(model, tiny_tokenizer(), tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(again), adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", REFUSED)
def test_every_other_kind_is_one_sentence(kind, base, tmp_path):
    of_kind(kind, base, tmp_path / "adapter")
    assert REFUSED[kind] in refusal(tmp_path / "adapter")


PARTED = {
    "its own embedding": {"modules_to_save": ["embed_tokens"]},
    "its own head": {"modules_to_save": ["lm_head"]},
    "both": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "some tokens": {"trainable_token_indices": [3, 4]},
    "biases": {"bias": "all"},
    "directions": {"use_dora": True},
}


@pytest.mark.parametrize("what", PARTED)
def test_what_an_adapter_brings_besides_is_kept_when_the_model_is_saved(what, tied, tmp_path):
    adapted = lora(tied, tmp_path / "adapter", **PARTED[what])
    save_model(load(tmp_path / "adapter"), tiny_tokenizer(), tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(again), adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_merge_that_changes_what_the_model_says_is_refused(target, tied, base, tmp_path):
    """One matrix cannot be the embedding without the adapter and the head with it."""
    lora(tied, tmp_path / "adapter", target_modules=["q_proj", target])
    assert "merged, its outputs on a few tokens are off by" in refusal(tmp_path / "adapter")
    adapted = lora(base, tmp_path / "untied", target_modules=["q_proj", target])
    torch.testing.assert_close(logits(load(tmp_path / "untied")), adapted, rtol=1e-4, atol=1e-4)


def test_replicated_layers_are_refused_and_would_be_found(base, tmp_path, monkeypatch):
    lora(base, tmp_path / "adapter", layer_replication=[[0, 2], [0, 2]])
    with pytest.raises(ModelError, match="layer_replication"):
        check_model(str(tmp_path / "adapter"))
    assert "layer_replication" in refusal(tmp_path / "adapter")
    unasked = "redpencil.models.load.adapter_config"
    monkeypatch.setattr(unasked, lambda found: LoraConfig.from_pretrained(found.source))
    assert "its outputs on a few tokens are off by" in refusal(tmp_path / "adapter")


def test_an_adapter_on_an_adapter(base, tmp_path):
    lora(base, tmp_path / "first")
    adapted = adapter_on(
        load(tmp_path / "first"),
        LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM"),
        tmp_path / "second",
    )
    edit(tmp_path / "second", base_model_name_or_path=str(tmp_path / "first"))
    check_model(str(tmp_path / "second"))
    torch.testing.assert_close(logits(load(tmp_path / "second")), adapted, rtol=1e-4, atol=1e-4)
    edit(tmp_path / "first", base_model_name_or_path=str(tmp_path / "second"))
    assert "stands on itself" in refusal(tmp_path / "second")


def cut(folder):
    whole = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])


def with_other_tensors(folder, *, added=None):
    """Without its first tensor, or with one more."""
    tensors = load_file(folder / "adapter_model.safetensors")
    first = sorted(tensors)[0]
    if added is None:
        tensors.pop(first)
    else:
        tensors[added] = tensors[first].clone()
    save_file(tensors, folder / "adapter_model.safetensors")


WRONG = {
    "does not name its base": lambda f: edit(f, base_model_name_or_path=None),
    "names ['x'] as its base model": lambda f: edit(f, base_model_name_or_path=["x"]),
    "base cannot be loaded: there is no model": lambda f: edit(f, base_model_name_or_path="/no"),
    "names the kind of adapter None": lambda f: edit(f, peft_type="gone"),
    "names the kind of adapter 'LORAX'": lambda f: edit(f, peft_type="LORAX"),
    'did you mean "LORA"': lambda f: edit(f, peft_type="LRA"),
    "names the kind of adapter 5": lambda f: edit(f, peft_type=5),
    "sets 'use_gears', which peft": lambda f: edit(f, use_gears=True),
    "does not fit its base: TypeError": lambda f: edit(f, r="four"),
    "TypeError: 'int' object is not iterable": lambda f: edit(f, target_modules=5),
    "is not valid JSON": lambda f: (f / "adapter_config.json").write_text("{"),
    "copying a param with shape": lambda f: edit(f, r=3),
    "does not fit its base: Target modules": lambda f: edit(f, target_modules=["nowhere"]),
    "4 tensors are missing": lambda f: edit(f, target_modules=["q_proj", "v_proj", "o_proj"]),
    "have no place in its base": lambda f: edit(f, target_modules=["q_proj"]),
    "1 tensors are missing": with_other_tensors,
    "1 tensors have no place": lambda f: with_other_tensors(f, added="base_model.model.elsewhere"),
    "the adapter": cut,
    "holds no weights": lambda f: (f / "adapter_model.safetensors").unlink(),
    "only as a pickle": lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
    "is the adapter of a reward model": lambda f: edit(f, task_type="SEQ_CLS"),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_adapter_is_one_sentence_before_its_base_is_read(message, base, tmp_path):
    lora(base, tmp_path / "adapter")
    WRONG[message](tmp_path / "adapter")
    assert message in refusal(tmp_path / "adapter")
    with pytest.raises(ModelError):
        check_model(str(tmp_path / "adapter"))


RIGHT = {
    "no task type": lambda f: edit(f, task_type=None),
    "a key of a newer peft that is off": lambda f: edit(f, use_gears=False, gears=None),
    "a config of its base beside it": lambda f: shutil.copy(
        json.loads((f / "adapter_config.json").read_text())["base_model_name_or_path"]
        + "/config.json",
        f,
    ),
}


@pytest.mark.parametrize("what", RIGHT)
def test_what_changes_nothing_is_no_matter(what, base, tmp_path):
    adapted = lora(base, tmp_path / "adapter")
    RIGHT[what](tmp_path / "adapter")
    check_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(load(tmp_path / "adapter")), adapted, rtol=1e-4, atol=1e-4)


def test_a_model_and_an_adapter_in_one_folder_are_told_apart_by_nobody(base, tmp_path):
    lora(base, tmp_path / "adapter")
    shutil.copytree(base, tmp_path / "adapter", dirs_exist_ok=True)
    said = refusal(tmp_path / "adapter")
    assert "holds a model and an adapter, and it is not said which is meant" in said
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    assert torch.equal(logits(load(tmp_path / "adapter")), logits(load(base)))


def reward_adapter(base, folder, **options):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model.name_or_path = str(base)
    settings = {"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "SEQ_CLS"}
    return adapter_on(model, LoraConfig(**settings | options), folder)


@pytest.mark.parametrize("said", [None, "SEQ_CLS"])
def test_a_reward_adapter_without_its_head_is_refused(said, base, tmp_path):
    """Its rewards would be those of a head of noise."""
    reward_adapter(base, tmp_path / "adapter", task_type=None)
    edit(tmp_path / "adapter", task_type=said)
    message = refusal(tmp_path / "adapter", head="reward")
    assert "no reward head (score.weight), so its rewards would be random" in message
    with pytest.raises(ModelError, match="no reward head"):
        check_model(str(tmp_path / "adapter"), head="reward")
    check_model(str(tmp_path / "adapter"), head="reward", new_head=True)
    assert load(tmp_path / "adapter", head="reward", new_head=1).score.weight.requires_grad


def test_a_reward_adapter_with_its_head_gives_its_rewards(base, tmp_path):
    rewards = reward_adapter(base, tmp_path / "adapter")
    assert gives_reward(str(tmp_path / "adapter")) and not gives_reward(str(base))
    check_model(str(tmp_path / "adapter"), head="reward")
    loaded = load(tmp_path / "adapter", head="reward")
    torch.testing.assert_close(logits(loaded), rewards, rtol=1e-4, atol=1e-4)
    assert "which cannot write" in refusal(tmp_path / "adapter")


def test_an_adapter_on_a_reward_model_needs_no_head(base, tmp_path):
    whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    save_model(whole, tiny_tokenizer(), tmp_path / "reward")
    rewards = reward_adapter(tmp_path / "reward", tmp_path / "adapter", task_type=None)
    assert gives_reward(str(tmp_path / "adapter"))
    check_model(str(tmp_path / "adapter"), head="reward")
    loaded = load(tmp_path / "adapter", head="reward")
    torch.testing.assert_close(logits(loaded), rewards, rtol=1e-4, atol=1e-4)


def test_a_reward_model_can_begin_from_a_language_models_adapter(base, tmp_path):
    lora(base, tmp_path / "adapter", target_modules="all-linear")
    check_model(str(tmp_path / "adapter"), head="reward", new_head=True)
    begun = load(tmp_path / "adapter", head="reward", new_head=1)
    writer = load(tmp_path / "adapter")
    for name, weight in writer.model.state_dict().items():
        assert torch.equal(begun.model.state_dict()[name], weight), name
