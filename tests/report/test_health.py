"""Health over training: since when something is wrong, and where to stop."""

from dataclasses import replace

import pytest

from redpencil.notebook import Moment
from redpencil.report.checks import hardly_moved
from redpencil.report.health import (
    HEALTH,
    displacement,
    health,
    large_kl,
    over_fitting,
    parting,
    saturation,
)
from redpencil.report.rundata import Pair, RunData

STEPS = (10, 20, 30, 40)


def moments(**columns):
    """A trend with these columns at steps 10, 20, 30, 40."""
    plain = {"chosen": 0.0, "rejected": 0.0, "margin": 0.0, "right": 0.5, "spent": 0.0}
    return tuple(
        Moment(step=step, pairs=9, **{**plain, **{name: c[i] for name, c in columns.items()}})
        for i, step in enumerate(STEPS)
    )


def after(count=4, **numbers):
    pair = Pair(prompt="p", chosen="c", rejected="r", length_chosen=100, length_rejected=100)
    return [replace(pair, **numbers) for _ in range(count)]


FALLEN = after(
    logp_chosen=-58.0, ref_logp_chosen=-50.0, logp_rejected=-70.0, ref_logp_rejected=-50.0
)


@pytest.mark.parametrize(
    ("fell", "said", "advice"),
    [
        ((-1, -4, -6, -8), "between the evaluations of step 20 and step 30", "stop at step 20 "),
        ((-1, -6, -4, -8), "between the evaluations of step 30 and step 40", "stop at step 30 "),
        ((-6, -6, -7, -8), "at the first evaluation, step 10, already", None),
    ],
)
def test_displacement_says_since_when(fell, said, advice):
    run = RunData(name="run", after=FALLEN, trends={"eval": moments(chosen=fell)})
    finding = displacement(run)
    assert finding.severity == "worry"
    assert "fell by 8 nats" in finding.text.replace("\u00a0", " ")
    assert said in finding.text
    assert (advice in finding.advice) if advice else ("stop at" not in finding.advice)
    without = displacement(replace(run, trends={}))
    assert "evaluation" not in without.text


@pytest.mark.parametrize(("then", "advised"), [(0.66, True), (0.70, False), (None, False)])
def test_no_step_is_advised_at_which_the_run_was_worse_off(then, advised):
    trends = {"eval": moments(chosen=(-1, -4, -6, -8))}
    losses = {0: 0.693, 10: 0.68, 20: then, 30: 0.69, 40: 0.68}
    evals = [{"step": s, "eval/loss": loss} for s, loss in losses.items() if loss is not None]
    finding = displacement(RunData(name="r", after=FALLEN, trends=trends, evals=evals))
    assert "between the evaluations of step 20 and step 30" in finding.text
    assert ("stop at step 20" in finding.advice) is advised


def test_displacement_with_a_reference_of_its_own_counts_from_the_start():
    moved = {"name": "run", "recipe": {"stage": "dpo", "model": "a", "reference": "b"}}
    began = after(
        logp_chosen=-57.5, ref_logp_chosen=-50.0, logp_rejected=-69.8, ref_logp_rejected=-50.0
    )
    finding = displacement(RunData(**moved, before=began, after=FALLEN))
    text = finding.text.replace("\u00a0", " ")
    assert finding.severity == "fine"
    assert "chosen answers fell by 0.500 nats, rejected answers fell by 0.200 nats" in text
    assert displacement(RunData(**moved, after=FALLEN)) is None  # nobody knows where it began
    assert displacement(RunData(name="run", recipe={"stage": "dpo"}, after=FALLEN)) is not None


def test_margins_that_only_the_reference_made_have_not_moved():
    recipe = {"stage": "dpo", "model": "a", "reference": "b", "learning_rate": 1e-7}
    began, now = after(margin=-0.4), after(margin=-0.398)
    finding = hardly_moved(RunData(name="run", recipe=recipe, before=began, after=now))
    assert "The margins moved by 0.00200 on average" in finding.text
    assert hardly_moved(RunData(name="run", recipe=recipe, after=now)) is None  # began somewhere
    evals = [
        {"step": 0, "eval/rewards/margins": -0.4},
        {"step": 9, "eval/rewards/margins": -0.398},
    ]
    assert hardly_moved(RunData(name="run", recipe=recipe, evals=evals)) is not None


def test_margins_that_part_stop_where_the_held_out_one_was_largest():
    rows = [{"step": s, "rewards/margins": 2.0} for s in range(1, 41)]
    evals = [{"step": 40, "eval/rewards/margins": 0.3}]
    trained = moments(margin=(0.1, 0.5, 1.0, 2.0))
    turned = {"eval": moments(margin=(0.1, 0.4, 0.35, 0.3)), "train": trained}
    finding = parting(RunData(name="run", train=rows, evals=evals, trends=turned))
    assert "It began between the evaluations of step 20 and step 30." in finding.text
    assert "largest at step 20" in finding.text
    assert "stop at step 20 (--max-steps)" in finding.advice
    rising = {"eval": moments(margin=(0.1, 0.2, 0.3, 0.31)), "train": trained}
    finding = parting(RunData(name="run", train=rows, evals=evals, trends=rising))
    assert finding.severity == "worry"
    assert "stop" not in finding.advice  # what is held out still gains


def test_saturation_looks_at_training_pairs():
    rows = [{"step": s, "rewards/accuracies": 0.97, "loss": 0.08} for s in range(1, 41)]
    spent = {"train": moments(spent=(0.1, 0.7, 0.85, 0.9)), "eval": moments()}
    finding = saturation(RunData(name="run", train=rows, after=after(weight=0.3), trends=spent))
    text = finding.text.replace("\u00a0", " ")
    assert "90 % of training pairs and 0 % of held-out pairs have a weight below 0.05" in text
    assert "between the evaluations of step 20 and step 30" in text
    assert "stop at step 20" in finding.advice
    alone = {"train": spent["train"]}
    text = saturation(RunData(name="run", train=rows, trends=alone)).text
    assert "It began between step 20 and step 30." in text and "evaluation" not in text
    alone = {"train": spent["train"][2:]}
    text = saturation(RunData(name="run", train=rows, trends=alone)).text
    assert "It was so by step 30 already." in text
    little = {"train": moments(spent=(0.1, 0.2, 0.3, 0.4))}
    fine = saturation(RunData(name="run", train=rows, after=after(weight=0.3), trends=little))
    assert fine.severity == "fine"


def test_over_fitting_counts_what_broke():
    evals = [{"step": s, "eval/loss": loss} for s, loss in ((0, 0.69), (10, 0.6), (20, 0.65))]
    kinds = {"eval": {"broken": 7, "corrected": 3}}
    finding = over_fitting(RunData(name="run", evals=evals, kinds=kinds))
    text = finding.text.replace("\u00a0", " ")
    assert "7 held-out pairs that the model had right at the first evaluation are wrong now" in text
    assert "3 went the other way" in text
    assert "Stop at step 10" in finding.advice
    losses = ((0, -1.0), (10, -1.99), (20, -2.0), (30, -1.98))
    negative = [{"step": s, "eval/loss": loss} for s, loss in losses]
    assert over_fitting(RunData(name="run", evals=negative)).severity == "fine"
    turned = [*negative, {"step": 40, "eval/loss": -1.5}]
    assert over_fitting(RunData(name="run", evals=turned)).severity == "worry"
    rose = [{"step": s, "eval/loss": loss} for s, loss in ((0, 0.69), (10, 0.7), (20, 0.8))]
    assert "It rose from the start" in over_fitting(RunData(name="run", evals=rose)).advice


def test_large_kl_says_where_it_was_still_near():
    evals = [{"step": s, "eval/kl": kl} for s, kl in ((0, 0.0), (10, 4.0), (20, 30.0), (30, 60.0))]
    finding = large_kl(RunData(name="run", evals=evals))
    assert "within that at step 10 and is beyond since step 20" in finding.text
    assert "stop at step 10" in finding.advice
    evals = [{"step": s, "eval/kl": kl} for s, kl in ((0, 0.0), (10, 40.0), (20, 30.0))]
    assert "stop" not in large_kl(RunData(name="run", evals=evals)).advice


def test_worries_come_first_and_name_their_plot():
    evals = [{"step": s, "eval/loss": loss} for s, loss in ((0, 0.69), (10, 0.6), (20, 0.65))]
    rows = [{"step": s, "rewards/accuracies": 0.8, "loss": 0.5} for s in range(1, 21)]
    found = health(RunData(name="run", train=rows, evals=evals))
    assert [f.severity for f in found] == ["worry", "fine"]
    assert {f.plot for f in found} == {"loss"}
    assert len(HEALTH) == 6
