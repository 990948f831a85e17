"""An objective that returns its own rewards: metrics, notebook, report and `eval` say the same."""

import json

import numpy as np
import pytest
import torch

import redpencil as rp
from redpencil.cli.main import main
from redpencil.notebook import read_notebook
from redpencil.objectives import Objective, Option
from redpencil.report.rundata import read_run
from redpencil.types import Outcome, Pairs, Scores
from tiny_runs import recipe


def per_token(scores: Scores, pairs: Pairs, *, beta: float) -> Outcome:
    """Length-normalised and without a reference, as SimPO's."""
    rewards = beta * scores.pi_logps / scores.lengths
    losses = -torch.nn.functional.logsigmoid(rewards[pairs.chosen] - rewards[pairs.rejected])
    return Outcome(losses=losses, rewards=rewards.detach())


def per_token_of_ratios(scores: Scores, pairs: Pairs, *, beta: float) -> Outcome:
    assert scores.ref_logps is not None
    rewards = beta * (scores.pi_logps - scores.ref_logps) / scores.lengths
    losses = -torch.nn.functional.logsigmoid(rewards[pairs.chosen] - rewards[pairs.rejected])
    return Outcome(losses=losses, rewards=rewards.detach())


def without(scores: Scores, pairs: Pairs, *, beta: float) -> Outcome:
    """Returns no rewards: they are the implicit ones."""
    h = scores.pi_logps[pairs.chosen] - scores.pi_logps[pairs.rejected]
    return Outcome(losses=-torch.nn.functional.logsigmoid(beta * h), rewards=None)


@pytest.fixture
def register(monkeypatch):
    def put(fn) -> str:
        beta = Option(default=2.0, allowed=lambda value: value > 0, range="above 0")
        row = Objective(
            name="mine",
            fn=fn,
            unit="comparison",
            needs_reference=True,
            options={"beta": beta},
            columns=frozenset(),
        )
        monkeypatch.setitem(rp.OBJECTIVES, row.name, row)
        return row.name

    return put


def measured_again(target, capsys, *options) -> dict:
    capsys.readouterr()
    assert main(["eval", str(target), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    ("fn", "kind"),
    [(per_token, "own"), (per_token_of_ratios, "relative"), (without, "implicit")],
)
def test_every_reader_says_what_the_objective_says(
    base, pairs, tmp_path, capsys, register, fn, kind
):
    options = {"loss": register(fn), "beta": 3.0, "max_steps": 8, "eval_every": 2}
    run = rp.train(recipe(base, pairs, tmp_path / "run", **options, sample_prompts=0))
    rows = [row for row in run.metrics if "eval/loss" in row]
    notebook = read_notebook(run.path)
    histories = notebook.pairs("eval")
    for row in rows:
        margins = np.array([dict(h.margins)[row["step"]] for h in histories])
        assert row["eval/rewards/margins"] == pytest.approx(margins.mean(), abs=1e-6)
        right = (margins > 0) + (margins == 0) / 2
        assert row["eval/rewards/accuracies"] == pytest.approx(right.mean())
    assert (fn is per_token) == any(margin for _, margin in [h.margins[0] for h in histories])
    first, last = rows[0], rows[-1]
    shown = read_run(run.path)
    for row, held_out in ((first, shown.before), (last, shown.after)):
        said = row["eval/rewards/accuracies"], row["eval/rewards/margins"]
        assert np.mean([p.correct for p in held_out]) == pytest.approx(said[0])
        assert np.mean([p.margin for p in held_out]) == pytest.approx(said[1], abs=1e-6)
    again = measured_again(run.path, capsys)
    assert again["accuracy"] == pytest.approx(last["eval/rewards/accuracies"])
    assert again["margin"] == pytest.approx(last["eval/rewards/margins"], abs=1e-5)
    name = "implicit reward" if fn is without else "reward of the loss mine"
    assert again["score"] == name and shown.reward_word in name
    assert json.loads((run.path / "environment.json").read_text())["rewards"] == kind
    implicit = measured_again(run.path, capsys, "--beta", "3.0")
    assert (fn is without) == (implicit["margin"] == pytest.approx(again["margin"], abs=1e-6))


def test_a_run_of_an_objective_that_is_not_known_here_is_read_all_the_same(
    base, pairs, tmp_path, capsys, register, monkeypatch
):
    options = {"loss": register(per_token), "max_steps": 2, "sample_prompts": 0}
    run = rp.train(recipe(base, pairs, tmp_path / "run", **options))
    monkeypatch.delitem(rp.OBJECTIVES, "mine")
    capsys.readouterr()
    assert main(["eval", str(run.path), "--json"]) == 0
    said = capsys.readouterr()
    assert "the loss 'mine', which is not registered in this program" in said.err
    found = json.loads(said.out.splitlines()[-1])
    assert (found["score"], found["beta"]) == ("log-probability less the reference's", 1.0)
    for command in (
        ["eval", run.path, "--beta", 0.5],
        ["note", run.path],
        ["report", run.path],
        ["export", run.path, tmp_path / "out"],
        ["generate", run.path, "--prompt", "The plot", "--max-new-tokens", 2],
    ):
        assert main([str(word) for word in command]) == 0, command
    command = ["dpo", "--model", base, "--data", pairs, "--out", run.path, "--loss", "mine"]
    assert main([str(word) for word in command]) == 2
    assert "unknown loss 'mine'" in capsys.readouterr().err
