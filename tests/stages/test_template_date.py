"""A chat template that prints the date: what depends on the clock must not change with it."""

import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

import redpencil as rp
from redpencil.cli.main import main
from redpencil.data.chat import current_clock, template_clock
from redpencil.data.tokenize import decode, prompt_ids
from redpencil.world.tokenizer import world_tokenizer
from tiny_runs import recipe, same_weights

# As Llama 3.2's, in words of the review world: a number becomes so many commas.
DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d') %}{% endif %}"
    "{{ ',' * (date_string | int) }}"
    "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ '</s>' if not add_generation_prompt }}"
)


@pytest.fixture
def dated(base, tmp_path) -> Path:
    """The small model with a template that prints the day of the month."""
    folder = tmp_path / "dated"
    shutil.copytree(base, folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def on(monkeypatch):
    """on(3): from now on a run begins on the third of March."""

    def set_day(day: int) -> None:
        class Today(date):
            @classmethod
            def today(cls):
                return cls(2025, 3, day)

        monkeypatch.setattr("redpencil.stages.run.date", Today)

    return set_day


def stop_at(monkeypatch, step: int):
    """Interrupt training when this step's checkpoint is written."""
    from redpencil.stages import training

    real = training.prune_checkpoints

    def prune(folder, **options):
        real(folder, **options)
        if (folder / f"step-{step}").is_dir():
            raise rp.Interrupted("stopped here")

    monkeypatch.setattr(training, "prune_checkpoints", prune)


def fingerprint(run: Path) -> str:
    return json.loads((run / "data.json").read_text())["data_fingerprint"]


@pytest.mark.parametrize("reference", ["base", "preferred-ft"])
def test_a_run_is_resumed_on_another_day(dated, pairs, tmp_path, on, capsys, reference):
    options = {"max_steps": 3, "checkpoint_every": 1, "sample_prompts": 0, "reference": reference}
    on(3)
    whole = rp.train(recipe(dated, pairs, tmp_path / "whole", **options))
    said = capsys.readouterr().out
    assert "the chat template prints the date: 2025-03-03 in this run" in said
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2)  # with preferred-ft: before the run itself has written anything
        with pytest.raises(rp.Interrupted):
            rp.train(recipe(dated, pairs, tmp_path / "cut", **options))
    on(9)
    cut = rp.train(recipe(dated, pairs, tmp_path / "cut", **options))
    assert same_weights(cut.path, whole.path)
    assert "template_date: '2025-03-03'" in (cut.path / "recipe.yaml").read_text()
    assert fingerprint(cut.path) == fingerprint(whole.path)
    capsys.readouterr()
    assert main(["eval", str(cut.path), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["accuracy"] == pytest.approx(cut.summary["eval_after"]["rewards/accuracies"])
    if reference == "base":  # another day is other data, unless the first day is asked for
        other = rp.train(recipe(dated, pairs, tmp_path / "other", **options))
        assert fingerprint(other.path) != fingerprint(whole.path)
        again = {**options, "template_date": "2025-03-03"}
        same = rp.train(recipe(dated, pairs, tmp_path / "same", **again))
        assert same_weights(same.path, whole.path)


def test_a_template_without_a_date_records_none(base, pairs, tmp_path, capsys):
    command = ["dpo", "--model", base, "--data", pairs, "--out", tmp_path / "run"]
    command = [str(word) for word in [*command, "--max-steps", 1, "--sample-prompts", 0]]
    assert main([*command, "--template-date", "2025-03-03"]) == 2
    assert "--template-date does nothing here" in capsys.readouterr().err
    assert main([*command, "--template-date", "3 March"]) == 2
    assert "must be a day such as 2024-07-26, got '3 March'" in capsys.readouterr().err
    assert main([*command, "--no-cache"]) == 0
    assert "prints the date" not in capsys.readouterr().out
    assert "template_date: null" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_a_plan_counts_the_date(dated, base, pairs, capsys):
    command = ["plan", "--no-time", "--data", str(pairs), "--json"]
    dates = {}
    for day in ("2025-03-01", "2025-03-20"):
        assert main([*command, "--model", str(dated), "--template-date", day]) == 0
        dates[day] = json.loads(capsys.readouterr().out)["steps"]
    assert dates["2025-03-20"] != dates["2025-03-01"]
    assert main([*command, "--model", str(base), "--template-date", "2025-03-01"]) == 2


def test_the_clock_stands_still_and_comes_back():
    tokenizer = world_tokenizer()
    tokenizer.chat_template = DATED
    before = current_clock()
    with template_clock("2025-03-03") as clock:
        assert not clock.asked
        ids = prompt_ids("The plot", tokenizer)
        assert clock.asked and decode(ids, tokenizer) == ",,,The plot"
        with template_clock(None):
            assert np.array_equal(prompt_ids("The plot", tokenizer), ids)
    assert current_clock() is before
    today = decode(prompt_ids("The plot", tokenizer), tokenizer)
    assert today.count(",") == before.moment.day
