"""Options as users of other tools type them: each has an answer, and none is a wrong guess."""

from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments

from redpencil.cli.main import main
from redpencil.errors import RecipeError
from redpencil.recipes.asking import GenerateRecipe, JudgeRecipe
from redpencil.recipes.foreign import _MEANT, FOREIGN, foreign_option
from redpencil.recipes.stages import STAGES, make_recipe

LISTED = (Path(__file__).parent / "foreign_options.txt").read_text(encoding="utf-8")
THEIRS = [n for line in LISTED.splitlines() if not line.startswith("#") for n in line.split()]
OURS = {
    name for kind in (*STAGES.values(), GenerateRecipe, JudgeRecipe) for name in kind.model_fields
}
NEEDED = ("--model", "m", "--data", "d", "--out", "o")


def said(capsys, *argv):
    assert main([*argv]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "Traceback" not in message
    return message


def test_every_option_of_the_others_has_an_answer():
    assert len(THEIRS) > 600
    assert set(THEIRS) - FOREIGN - OURS == set()


def test_those_of_the_transformers_that_is_installed_have_one_but_for_the_newest():
    """Another version may have some more; nothing of ours depends on it."""
    here = {field.name for field in fields(TrainingArguments)}
    unknown = here - FOREIGN - OURS
    assert len(unknown) <= 0.1 * len(here), unknown


def test_what_is_ours_is_never_called_foreign_and_every_answer_names_an_option_that_exists():
    assert (OURS & FOREIGN) - {"stage"} == set()  # a key of files, a command elsewhere
    assert set(_MEANT.values()) <= OURS


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("--use_peft", "--lora-rank 16 trains adapters"),
        ("--output_dir", "here it is --out"),
        ("--output-dir=runs/x", "here it is --out"),
        ("--per-device-train-batch-size", "here it is --batch-size (prompts in an optimizer step"),
        ("--num_train_epochs", "here it is --epochs"),
        ("--model_name_or_path", "here it is --model"),
        ("--gradient_accumulation_steps", "--batch-size counts the prompts of a whole"),
        ("--loss_type", "here it is --loss"),
        ("--pref_beta", "here it is --beta"),
        ("--bf16", "it has no counterpart here: weights are float32"),
        ("--deepspeed", "it has no counterpart here: redpencil trains in one process"),
        ("--resume_from_checkpoint", "the same command goes on"),
        ("--Output_Dir", "here it is --out"),
    ],
)
def test_the_command_line_answers_before_it_asks_for_what_is_missing(capsys, typed, answer):
    name = typed.partition("=")[0].replace("_", "-")
    message = said(capsys, "dpo", typed, "8")
    assert f"redpencil dpo does not know {name}; {answer}" in message


def test_an_option_of_another_command_says_so(capsys):
    assert "which this command does not have" in said(
        capsys, "eval", "m", "--num_train_epochs", "2"
    )


def test_a_slip_is_still_told_from_a_foreign_word(capsys):
    assert 'did you mean "--beta"?' in said(capsys, "dpo", "--betta", "1")
    assert "see redpencil dpo --help" in said(capsys, "dpo", "--xyzzy", "1")
    assert foreign_option("--xyzzy", ()) is None


def test_underscores_read_as_hyphens(capsys):
    message = said(capsys, "dpo", *NEEDED, "--lora_rank", "-1")
    assert "--lora-rank should be greater than or equal to 0" in message


def test_what_is_missing_is_said_by_its_name(capsys):
    assert "--out is missing: run folder" in said(capsys, "dpo", "--model", "m", "--data", "d")


@pytest.mark.parametrize("name", ["output_dir", "per_device_train_batch_size", "use_peft"])
def test_recipe_files_and_python_answer_alike(name):
    with pytest.raises(RecipeError) as caught:
        make_recipe("dpo", {"model": "m", "data": "d", "out": "o", name: 1})
    assert f"unknown option '{name}'; " in str(caught.value)
    assert str(foreign_option(name, STAGES["dpo"].model_fields)) in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "answer"),
    [
        ("simpo", "it is not among those that are here (known are: dpo, ipo,"),
        ("kto_pair", "it is not among those that are here"),
        ("sigmoid", 'here it is "dpo"'),
        ("grpo", "that is the command `redpencil rl`"),
        ("dop", 'did you mean "dpo"?'),
    ],
)
def test_losses_of_the_field(loss, answer):
    with pytest.raises(RecipeError) as caught:
        make_recipe("dpo", {"model": "m", "data": "d", "out": "o", "loss": loss})
    assert answer in str(caught.value)
    assert loss == "dop" or "did you mean" not in str(caught.value)
