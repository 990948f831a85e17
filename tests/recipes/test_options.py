"""Options: capped in number, described, documented, and named alike everywhere."""

import re
from pathlib import Path

import pytest
import yaml

from redpencil.errors import RecipeError
from redpencil.objectives import OBJECTIVES
from redpencil.recipes.file import load_stages, parse_override
from redpencil.recipes.reference_page import options_page
from redpencil.recipes.stages import STAGES, make_recipe, paper

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {"model": "m", "data": "d.jsonl", "out": "runs/x"}


@pytest.mark.parametrize("stage", STAGES)
def test_options_of_a_command_stay_under_sixty(stage):
    fields = STAGES[stage].model_fields
    assert len(fields) < 60
    assert all(f.description for name, f in fields.items() if name != "stage")


def test_the_options_page_is_up_to_date():
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == options_page(), (
        "run `make docs`"
    )


def test_every_preference_objective_is_named_in_the_help():
    described = STAGES["dpo"].model_fields["loss"].description
    assert described is not None
    for row in OBJECTIVES.values():
        if row.of_preferences:
            assert row.name in described


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beat": 0.2}, "unknown option 'beat'; did you mean \"beta\"?"),
        ({"beta": -1}, "beta"),
        ({"beta": "high"}, "beta should be a valid number"),
        ({"loss": "dop"}, "unknown loss 'dop'; did you mean \"dpo\"?"),
        ({"loss": "sft"}, "not one of preferences"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing does nothing"),
        ({"loss": "unlikelihood", "beta": 0.1}, "beta does nothing with the loss unlikelihood"),
        ({"loss": "unlikelihood", "alpha": 2}, "alpha should be less than or equal to 1"),
        ({"alpha": 0.1}, "alpha does nothing with the loss dpo"),
        ({"loss": "plackett-luce", "label_smoothing": 0.1}, "label_smoothing does nothing"),
        ({"label_smoothing": 0.5}, "label_smoothing should be less than 0.5"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"batch_size": 0}, "batch_size should be greater than or equal to 1 (it is 0)"),
        ({"lora_alpha": 8}, "lora_alpha does nothing without lora_rank"),
        ({"eval_data": "e", "eval_fraction": 0.1}, "eval_fraction does nothing beside eval_data"),
        ({"data": " "}, "data: must not be empty"),
    ],
)
def test_a_wrong_option_is_one_sentence(options, message):
    with pytest.raises(RecipeError) as caught:
        make_recipe("dpo", {**NEEDED, **options})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_resolving_leaves_nothing_open():
    recipe = make_recipe("dpo", {**NEEDED, "lora_rank": 8})
    resolved = recipe.resolve(total_steps=200, max_length=512)
    still_open = {k for k, v in resolved.model_dump().items() if v is None}
    # No loss but one has an alpha, no template but some print a date; how much is held out is known
    # once the data are read.
    still = {"eval_data", "eval_fraction", "matrix_kernels", "alpha", "separator", "template_date"}
    assert still_open == still
    assert (resolved.beta, resolved.warmup_steps, resolved.lora_alpha) == (0.1, 20, 16.0)


@pytest.mark.parametrize(
    ("warmup", "steps", "said"),
    [(150, 3, "end at 2% of the learning rate"), (30, 30, "100%"), (29, 30, None), (None, 3, None)],
)
def test_a_warm_up_that_is_not_over_before_the_run_is(warmup, steps, said):
    doubts = make_recipe("dpo", {**NEEDED, "warmup_steps": warmup}).doubts(steps)
    assert len(doubts) == (said is not None)
    assert not said or said in doubts[0]


def test_the_paper_s_settings():
    recipe = paper("m", "d", "o").resolve(total_steps=1000, max_length=512)
    assert (recipe.optimizer, recipe.batch_size, recipe.learning_rate) == ("rmsprop", 64, 1e-6)
    assert (recipe.warmup_steps, recipe.beta) == (150, 0.1)


def write(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


TWO = {
    "out": "runs/two",
    "model": "base",
    "seed": 3,
    "stages": [{"stage": "sft", "data": "a"}, {"stage": "dpo", "data": "b", "beta": 0.3}],
}


def test_stages_chain_and_share(tmp_path):
    sft, dpo = load_stages(write(tmp_path, TWO), {})
    assert (sft.model, sft.out, sft.seed) == ("base", "runs/two/1-sft", 3)
    assert (dpo.model, dpo.out, dpo.seed) == ("runs/two/1-sft/model", "runs/two/2-dpo", 3)
    assert dpo.beta == 0.3


def test_overrides_win_over_the_file(tmp_path):
    overrides = dict(map(parse_override, ["beta=0.5", "sft.epochs=4", "out=elsewhere"]))
    sft, dpo = load_stages(write(tmp_path, TWO), overrides)
    assert (sft.epochs, dpo.epochs, dpo.beta, dpo.out) == (4, 1, 0.5, "elsewhere/2-dpo")


def test_a_stage_s_own_model_and_folder_win(tmp_path):
    overrides = dict(map(parse_override, ["dpo.model=other", "dpo.out=there"]))
    _, dpo = load_stages(write(tmp_path, TWO), overrides)
    assert (dpo.model, dpo.out) == ("other", "there")


RESOLVED = {
    "sft": {"group_prompts": False},
    "reward": {"centring": 0.1},
    "dpo": {"loss": "ipo", "lora_rank": 4, "eval_data": "held.jsonl"},
    "rl": {"reward": "answer", "advantage": "gae", "columns": {"prompt": "question"}},
}


@pytest.mark.parametrize("stage", RESOLVED)
def test_a_run_s_own_recipe_is_run_again_as_it_is(tmp_path, stage):
    recipe = make_recipe(stage, {**NEEDED, **RESOLVED[stage]})
    recipe = recipe.resolve(total_steps=40, max_length=64)
    path = write(tmp_path, yaml.safe_dump(recipe.model_dump()))
    assert load_stages(path, {}) == [recipe]
    (again,) = load_stages(path, {"out": "elsewhere", f"{stage}.seed": 5})
    assert again == recipe.model_copy(update={"out": "elsewhere", "seed": 5})
    (longer,) = load_stages(path, {"epochs": 3})
    assert longer.max_steps is None  # what was resolved from one epoch
    with pytest.raises(RecipeError, match='did you mean "epochs"'):
        load_stages(path, {"epoch": 3})


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        ("stages: [", {}, "is not YAML"),
        ("- 1", {}, "must be a mapping"),
        ({"out": "x"}, {}, "needs a list of stages"),
        ({**TWO, "stages": [{"stage": "dpx"}]}, {}, "unknown stage 'dpx'; did you mean \"dpo\"?"),
        ({**TWO, "sed": 1}, {}, "unknown option 'sed'; did you mean \"seed\"?"),
        (TWO, {"dpp.beta": 1}, "has no stage 'dpp'"),
        (TWO, {"bta": 1}, 'did you mean "beta"?'),
        (TWO, {"beta": -1}, "stage 2: beta"),
        ({k: v for k, v in TWO.items() if k != "out"}, {}, "needs `out`"),
    ],
)
def test_a_wrong_recipe_file_is_one_sentence(tmp_path, content, overrides, message):
    with pytest.raises(RecipeError) as caught:
        load_stages(write(tmp_path, content), overrides)
    assert message in str(caught.value)


NUMERIC = [
    (stage, name)
    for stage, kind in STAGES.items()
    for name, field in kind.model_fields.items()
    if {"int", "float"} & set(re.findall(r"\w+", str(field.annotation)))
]


@pytest.mark.parametrize(("stage", "name"), NUMERIC)
@pytest.mark.parametrize("value", [True, False])
def test_yes_and_no_are_no_numbers(stage, name, value):
    """YAML reads yes and no as true and false, which Python would take for 1 and 0."""
    asked = {"reward": "answer"} if stage == "rl" else {}
    said = f"^{name}: should be a number .it is {str(value).lower()}"
    with pytest.raises(RecipeError, match=said):
        make_recipe(stage, {**NEEDED, **asked, name: value})


@pytest.mark.parametrize("stage", ["[1]", "{a: b}", "null", "3", "true", "2024-01-01"])
@pytest.mark.parametrize("form", ["stage: {}", "out: o\nstages: [stage: {}]"])
def test_a_stage_that_is_no_name_is_one_sentence(tmp_path, stage, form):
    path = tmp_path / "r.yaml"
    path.write_text(form.replace("{}", stage))
    with pytest.raises(RecipeError, match=r"unknown stage|needs a list of stages"):
        load_stages(path, {})
