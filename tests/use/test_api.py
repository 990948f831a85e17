"""The Python doors: what they take, and one sentence for what they do not."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import redpencil as rp
from redpencil.models.lora import add_lora

ROWS = [
    {"prompt": "The plot", "chosen": " is good", "rejected": " is bad"},
    {"prompt": "The film", "chosen": " is", "rejected": " was good"},
]


@pytest.fixture(scope="module")
def in_memory(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    return AutoModelForCausalLM.from_pretrained(base), tokenizer


@pytest.mark.parametrize("method", ["tree", "oracle"])
def test_a_model_is_taken_however_it_is_given(base, in_memory, method):
    model, tokenizer = in_memory
    expected = rp.logps(rp.load(base), ROWS, method)
    for given in (str(base), Path(base)):
        assert rp.logps(given, ROWS, method) == expected
    for given in (model, add_lora(AutoModelForCausalLM.from_pretrained(base), rank=2)):
        found = rp.logps(given, ROWS, method, tokenizer=tokenizer)
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))


def test_a_model_in_memory_is_left_as_it_was(base):
    model = AutoModelForCausalLM.from_pretrained(base).train()
    model.model.layers[0].eval()
    ids = torch.tensor([[1, 20, 30, 40]])
    before = model(input_ids=ids).logits
    modes = {name: module.training for name, module in model.named_modules()}
    attention = model.config._attn_implementation
    rp.logps(model, ROWS, tokenizer=AutoTokenizer.from_pretrained(base))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.config._attn_implementation == attention
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_path_is_taken_wherever_a_text_names_one(base, pairs, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    given = {"model": base, "data": pairs, "out": tmp_path / "run", "chat_template": template}
    paths = rp.DpoRecipe(**given, eval_data=pairs, reference=base)
    texts = {name: str(path) for name, path in given.items()}
    assert paths == rp.DpoRecipe(**texts, eval_data=str(pairs), reference=str(base))
    assert rp.make_recipe("dpo", given) == rp.make_recipe("dpo", texts)
    assert rp.paper(base, pairs, tmp_path).model == str(base)
    assert rp.RlRecipe(**given, reward=base).reward == str(base)
    assert rp.logps(base, ROWS, chat_template=template)
    assert rp.Run(str(tmp_path)) == rp.Run(tmp_path)


NEEDED = {"model": "m", "data": "d", "out": "o"}


@pytest.mark.parametrize("kind", [rp.SftRecipe, rp.DpoRecipe, rp.RewardRecipe, rp.RlRecipe])
def test_a_misspelt_option_is_one_sentence(kind):
    more = {"reward": "answer"} if kind is rp.RlRecipe else {}
    with pytest.raises(rp.RecipeError) as caught:
        kind(**NEEDED, **more, lerning_rate=1)
    assert str(caught.value) == "unknown option 'lerning_rate'; did you mean \"learning_rate\"?"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "'model' is missing"),
        ({**NEEDED, "model": None}, "model should be a valid string (it is None)"),
        ({**NEEDED, "model": " "}, "must not be empty"),
        ({**NEEDED, "learning_rate": "fast"}, "learning_rate should be a valid number"),
        ({**NEEDED, "batch_size": 0}, "batch_size should be greater than or equal to 1"),
        ({**NEEDED, "loss": "dbo"}, "unknown loss 'dbo'; did you mean \"dpo\"?"),
        ({**NEEDED, "beta": -1}, "beta should be greater than 0"),
        ({**NEEDED, "columns": ["a"]}, "columns should be a valid dictionary"),
        ({**NEEDED, "lora_alpha": 2.0}, "lora_alpha does nothing without lora_rank"),
        ({**NEEDED, "template_date": "tomorrow"}, "must be a day such as 2024-07-26"),
    ],
)
def test_a_recipe_that_is_wrong_is_one_sentence(options, said):
    for make in (lambda: rp.DpoRecipe(**options), lambda: rp.make_recipe("dpo", options)):
        with pytest.raises(rp.RecipeError) as caught:
            make()
        assert said in str(caught.value) and "\n" not in str(caught.value)
        assert "pydantic" not in str(caught.value)


def one(prompts, responses, rows):
    return [1.0] * len(responses)


def few(prompts, responses, rows):
    return [1.0]


def none(prompts, responses, rows):
    return None


CALLS = {
    "load(None)": lambda m, t: rp.load(None),
    "load(3)": lambda m, t: rp.load(3),
    "load(model)": lambda m, t: rp.load(m),
    "load(nowhere)": lambda m, t: rp.load("./nowhere"),
    "logps(None)": lambda m, t: rp.logps(None, ROWS),
    "logps(nowhere)": lambda m, t: rp.logps("./nowhere", ROWS),
    "logps without tokenizer": lambda m, t: rp.logps(m, ROWS),
    "logps with another's": lambda m, t: rp.logps(m, ROWS, tokenizer="gpt2"),
    "logps of a layer": lambda m, t: rp.logps(m.model, ROWS, tokenizer=t),
    "no records": lambda m, t: rp.logps(m, None, tokenizer=t),
    "a file": lambda m, t: rp.logps(m, "pairs.jsonl", tokenizer=t),
    "one row": lambda m, t: rp.logps(m, ROWS[0], tokenizer=t),
    "texts": lambda m, t: rp.logps(m, ["The plot"], tokenizer=t),
    "a number": lambda m, t: rp.logps(m, [1], tokenizer=t),
    "an empty row": lambda m, t: rp.logps(m, [{}], tokenizer=t),
    "a wrong row": lambda m, t: rp.logps(m, [{"prompt": "a", "chosen": 3}], tokenizer=t),
    "method": lambda m, t: rp.logps(m, ROWS, "three", tokenizer=t),
    "no method": lambda m, t: rp.logps(m, ROWS, None, tokenizer=t),
    "max_length 0": lambda m, t: rp.logps(m, ROWS, tokenizer=t, max_length=0),
    "max_length text": lambda m, t: rp.logps(m, ROWS, tokenizer=t, max_length="8"),
    "template": lambda m, t: rp.logps(m, ROWS, tokenizer=t, chat_template="no.jinja"),
    "Record of a text": lambda m, t: rp.logps(
        m,
        [rp.Record(prompt="a", responses="b", comparisons=(), origin=None)],
        tokenizer=t,
    ),
    "train(None)": lambda m, t: rp.train(None),
    "train(file)": lambda m, t: rp.train("recipe.yaml"),
    "train(options)": lambda m, t: rp.train(NEEDED),
    "make_recipe(None)": lambda m, t: rp.make_recipe(None, NEEDED),
    "make_recipe stage": lambda m, t: rp.make_recipe("dbo", NEEDED),
    "make_recipe options": lambda m, t: rp.make_recipe("dpo", None),
    "paper": lambda m, t: rp.paper("m", None, "o"),
    "build_report(None)": lambda m, t: rp.build_report(None),
    "build_report(nowhere)": lambda m, t: rp.build_report("./nowhere"),
    "build_report out": lambda m, t: rp.build_report(Path(), 3),
    "Run(None)": lambda m, t: rp.Run(None),
    "Run(nowhere).summary": lambda m, t: rp.Run("./nowhere").summary,
    "Run(nowhere).metrics": lambda m, t: rp.Run("./nowhere").metrics,
    "dpo_loss lists": lambda m, t: rp.dpo_loss([1.0], [1.0], [0], [0], 0.1),
    "dpo_loss None": lambda m, t: rp.dpo_loss(
        torch.zeros(2), None, torch.tensor([0]), torch.tensor([1]), 0.1
    ),
    "dpo_loss shapes": lambda m, t: rp.dpo_loss(
        torch.zeros(2), torch.zeros(3), torch.tensor([0]), torch.tensor([1]), 0.1
    ),
    "rewards of a text": lambda m, t: rp.sampled_rewards(
        rp.Loaded(m, t, 128), "The plot", one, num=1
    ),
    "rewards of None": lambda m, t: rp.sampled_rewards(rp.Loaded(m, t, 128), None, one, num=1),
    "rewards of nothing": lambda m, t: rp.sampled_rewards(rp.Loaded(m, t, 128), [], one, num=1),
    "rewards of numbers": lambda m, t: rp.sampled_rewards(rp.Loaded(m, t, 128), [1], one, num=1),
    "num 0": lambda m, t: rp.sampled_rewards(rp.Loaded(m, t, 128), ["The"], one, num=0),
    "num None": lambda m, t: rp.sampled_rewards(rp.Loaded(m, t, 128), ["The"], one, num=None),
    "reward text": lambda m, t: rp.sampled_rewards(rp.Loaded(m, t, 128), ["The"], "answer", num=1),
    "too few": lambda m, t: rp.sampled_rewards(
        rp.Loaded(m, t, 128), ["The", "A"], few, num=1, max_new_tokens=2
    ),
    "no rewards": lambda m, t: rp.sampled_rewards(
        rp.Loaded(m, t, 128), ["The"], none, num=1, max_new_tokens=2
    ),
    "policy None": lambda m, t: rp.reward_and_kl(None, None, ["The"], one),
    "policy in memory": lambda m, t: rp.reward_and_kl(m, m, ["The"], one),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_a_door_does_not_take_is_one_sentence(in_memory, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(rp.UserError) as caught:
        CALLS[call](*in_memory)
    said = str(caught.value)
    assert said and "\n" not in said and len(said) < 400, said
    assert not list(tmp_path.iterdir())


def test_a_classifier_cannot_write(base):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    with pytest.raises(rp.ModelError, match="LlamaForSequenceClassification is no causal language"):
        rp.logps(model, ROWS, tokenizer=AutoTokenizer.from_pretrained(base))


def test_an_objective_that_is_none_is_one_sentence(monkeypatch):
    monkeypatch.setitem(rp.OBJECTIVES, "mine", lambda scores, pairs: None)
    with pytest.raises(rp.RecipeError, match="takes an Objective, got function"):
        rp.DpoRecipe(**NEEDED, loss="mine")


def test_the_doors_still_do_their_work(in_memory):
    loaded = rp.Loaded(*in_memory, 128)
    assert rp.logps(loaded, []) == []
    rewards = rp.sampled_rewards(loaded, ["The plot", "The"], one, num=2, max_new_tokens=2)
    assert rewards.shape == (2, 2)
