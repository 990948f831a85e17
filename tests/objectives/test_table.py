"""The table: names, options, refusals, and that adding an objective is a function and a row."""

import pytest
import torch

from redpencil.errors import RecipeError
from redpencil.objectives import (
    OBJECTIVES,
    Objective,
    Option,
    bind,
    dpo_loss,
    objective,
    rewards_of,
)
from redpencil.types import Comparison, Origin, Outcome, Pairs, Scores


def one_pair() -> Pairs:
    one = torch.ones(1)
    return Pairs(
        chosen=torch.tensor([0]),
        rejected=torch.tensor([1]),
        weight=one,
        margin=0 * one,
        probability=one,
    )


def two_scores() -> Scores:
    return Scores(
        pi_logps=torch.tensor([-1.0, -3.0]),
        ref_logps=torch.tensor([-2.0, -2.0]),
        lengths=torch.tensor([4, 4]),
        weights=torch.ones(2),
    )


def test_rows() -> None:
    assert set(OBJECTIVES) >= {"dpo", "ipo", "hinge", "sft"}
    assert all(name == row.name for name, row in OBJECTIVES.items())
    assert set(objective("dpo").options) == {"beta", "label_smoothing"}
    assert set(objective("hinge").options) == {"beta"}
    assert objective("sft").unit == "token" and not objective("sft").needs_reference
    assert objective("unlikelihood").of_preferences and not objective("sft").of_preferences
    assert objective("ipo").unit == "comparison" and objective("ipo").needs_reference
    for row in OBJECTIVES.values():
        assert all(option.allowed(option.default) for option in row.options.values())


def test_defaults_are_filled_in() -> None:
    assert objective("dpo").settings() == {"beta": 0.1, "label_smoothing": 0.0}
    assert objective("dpo").settings(beta=None, label_smoothing=0.2) == {
        "beta": 0.1,
        "label_smoothing": 0.2,
    }
    assert objective("sft").settings(beta=None) == {}
    losses, _ = dpo_loss(
        two_scores().pi_logps, two_scores().ref_logps, torch.tensor([0]), torch.tensor([1]), 0.1
    )
    assert torch.equal(bind("dpo")(two_scores(), one_pair()).losses, losses)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dop", {}, "unknown loss 'dop'; did you mean \"dpo\""),
        ("", {}, "known are: dpo, hinge, ipo, plackett-luce, sft, unlikelihood"),
        ("hinge", {"label_smoothing": 0.1}, "label_smoothing does nothing with the loss hinge"),
        ("hinge", {"label_smoothing": 0.0}, "which takes only beta"),
        ("sft", {"beta": 0.1}, "takes no options"),
        ("dpo", {"betta": 0.1}, "has no option 'betta'; did you mean \"beta\""),
        ("dpo", {"beta": 0.0}, "beta must be above 0, got 0.0"),
        ("dpo", {"beta": -1.0}, "beta must be above 0"),
        ("dpo", {"beta": float("nan")}, "beta must be above 0, got nan"),
        ("dpo", {"beta": float("inf")}, "got inf"),
        ("dpo", {"beta": "0.1"}, "got '0.1'"),
        ("dpo", {"beta": True}, "got True"),
        ("dpo", {"label_smoothing": 0.5}, "label_smoothing must be at least 0 and below 0.5"),
        ("ipo", {"label_smoothing": -0.1}, "label_smoothing must be at least 0"),
    ],
)
def test_refusals(name: str, options: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        bind(name, **options)


def test_unused_columns_are_found() -> None:
    plain = Comparison(chosen=0, rejected=1)
    asking = Comparison(chosen=0, rejected=1, margin=0.5, origin=Origin("a.jsonl", 7))
    later = Comparison(chosen=0, rejected=1, margin=0.7, probability=0.9, weight=2.0)
    comparisons = [plain, asking, later]
    assert objective("dpo").unused_columns(comparisons) == {}
    assert objective("ipo").unused_columns(comparisons) == {"margin": asking}
    assert objective("hinge").unused_columns(comparisons) == {"probability": later}
    assert list(objective("sft").unused_columns(comparisons)) == ["margin", "probability", "weight"]
    assert objective("hinge").unused_columns([plain, asking]) == {}


def test_a_declared_column_changes_the_loss_and_no_other_does() -> None:
    """The rows tell the truth about the functions."""
    for row in OBJECTIVES.values():
        plain = bind(row.name)(two_scores(), one_pair()).losses
        for column, value in (("weight", 2.0), ("margin", 0.25), ("probability", 0.75)):
            columns = {name: getattr(one_pair(), name) for name in Pairs.__slots__}
            changed = Pairs(**{**columns, column: torch.tensor([value])})
            losses = bind(row.name)(two_scores(), changed).losses
            assert (column in row.columns) != torch.equal(losses, plain), (row.name, column)


def test_adding_an_objective_is_a_function_and_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap of log-probabilities: -log pi(w) + tau log pi(l) = 1 - 0.5 * 3 = -0.5."""

    def gap(scores: Scores, pairs: Pairs, *, tau: float) -> Outcome:
        pi = scores.pi_logps
        return Outcome(losses=-pi[pairs.chosen] + tau * pi[pairs.rejected], rewards=None)

    row = Objective(
        name="gap",
        fn=gap,
        unit="comparison",
        needs_reference=False,
        options={"tau": Option(default=0.5, allowed=lambda tau: tau >= 0, range="at least 0")},
        columns=frozenset(),
    )
    monkeypatch.setitem(OBJECTIVES, row.name, row)

    outcome = bind("gap")(two_scores(), one_pair())
    assert outcome.losses.tolist() == [-0.5]
    assert bind("gap", tau=1.0)(two_scores(), one_pair()).losses.tolist() == [-2.0]
    rewards = rewards_of(bind("gap"), two_scores(), one_pair(), scale=2.0)
    implicit = 2.0 * (two_scores().pi_logps - two_scores().ref_logps)
    assert torch.equal(rewards.values, implicit.detach())
    with pytest.raises(RecipeError, match="tau must be at least 0"):
        bind("gap", tau=-1.0)
    with pytest.raises(RecipeError, match="tau does nothing with the loss dpo"):
        bind("dpo", tau=0.5)
    with pytest.raises(RecipeError, match="beta does nothing with the loss gap"):
        bind("gap", beta=0.1)
