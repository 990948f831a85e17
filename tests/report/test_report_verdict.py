"""The verdict and its checks: numbers in, sentences out."""

import math

import pytest

from redpencil.report.checks import (
    displacement,
    large_kl,
    over_fitting,
    parting,
    saturation,
    status,
)
from redpencil.report.data_checks import (
    evaluation_size,
    length_drift,
    longer_chosen,
    rows_set_aside,
)
from redpencil.report.estimates import clustered_share, mean_and_error
from redpencil.report.rundata import Pair, RunData
from redpencil.report.verdict import judge
from redpencil.report.wording import duration, percent, short


def pairs(right: int, wrong: int, **fields: float) -> list[Pair]:
    margins = [0.5] * right + [-0.5] * wrong
    return [
        Pair(prompt=f"p{i}", chosen="a", rejected="b", margin=m, weight=1 / (1 + math.exp(m)))
        if not fields
        else Pair(prompt=f"p{i}", chosen="a", rejected="b", margin=m, **fields)
        for i, m in enumerate(margins)
    ]


def preference_run(right: int, wrong: int, **fields: object) -> RunData:
    given = {"summary": {"status": "done", "steps": 10}, "after": pairs(right, wrong)}
    return RunData(name="r", **{**given, **fields})


def test_pairs_of_one_prompt_count_less():
    alone = clustered_share((i, float(i % 4 > 0)) for i in range(120))
    # The same outcomes six times a prompt: 20 prompts' worth, not 120.
    together = clustered_share((i // 6, float(i // 6 % 4 > 0)) for i in range(120))
    assert alone.effective == 120
    assert together.value == alone.value == 0.75
    assert together.effective == pytest.approx(20 * 19 / 20)
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert clustered_share((i // 6, 1.0) for i in range(120)).effective == 20


def test_mean_and_error():
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / math.sqrt(3)))


def test_it_worked_says_by_how_much():
    verdict = judge(preference_run(85, 35))
    assert (verdict.tone, verdict.headline) == ("good", "It worked")
    said = verdict.sentences[0].replace("\u00a0", " ")
    assert said == (
        "On 120 held-out pairs the model now orders 71 % correctly (50 % before training: a coin "
        "toss); 95 % interval 62 to 78 %."
    )


def test_a_loss_above_its_start_is_no_plain_success():
    before = {"eval_before": {"loss": 0.6931}}
    for loss, headline in ((0.61, "It worked"), (0.8667, "Better ordered, but over-fitted")):
        summary = {"status": "done", "steps": 10, **before, "eval_after": {"loss": loss}}
        verdict = judge(preference_run(300, 120, summary=summary))
        assert verdict.headline == headline
    assert verdict.tone == "unclear"
    assert "held-out loss is 0.867, above the 0.693 before training" in verdict.sentences[1]


def test_chance_is_not_called_success():
    verdict = judge(preference_run(65, 55))
    assert (verdict.tone, verdict.headline) == ("unclear", "No clear improvement")
    assert "not-significant" in {f.key for f in verdict.worries}


def test_below_half_is_an_alarm_and_stands_first():
    verdict = judge(preference_run(30, 90))
    assert verdict.tone == "bad"
    assert verdict.worries[0].key == "below-half" and verdict.worries[0].severity == "alarm"


def test_true_reward_overrules_the_accuracy():
    reward = {"before": 0.5, "after": 0.1, "stderr_before": 0.05, "stderr_after": 0.05}
    run = preference_run(85, 35, summary={"status": "done", "true_reward": reward})
    verdict = judge(run)
    assert verdict.tone == "bad"
    assert verdict.headline == "It learned the labels, not the goal"
    better = judge(preference_run(85, 35, summary={"true_reward": {**reward, "after": 0.9}}))
    assert better.tone == "good" and "rose from 0.50 to 0.90" in better.sentences[0]


def test_sft_is_judged_by_perplexity():
    summary = {"eval_before": {"perplexity": 54.3}, "eval_after": {"perplexity": 12.1}}
    verdict = judge(RunData(name="r", summary=summary))
    assert verdict.headline == "It worked"
    assert verdict.sentences[0].startswith("Perplexity on held-out text fell from 54.3 to 12.1.")


def test_an_unfinished_run_says_so_and_promises_nothing():
    verdict = judge(RunData(name="r", recipe={"max_steps": 100}, train=[{"step": 4, "loss": 0.6}]))
    assert verdict.headline == "Too early to say"
    assert verdict.worries[0].key == "unfinished" and "4 of 100 steps" in verdict.worries[0].text
    assert judge(RunData(name="r")).headline == "Nothing to judge yet"


def logps(w: float, l: float) -> dict[str, float]:  # noqa: E741
    drift = {"logp_chosen": w, "ref_logp_chosen": 0.0, "logp_rejected": l, "ref_logp_rejected": 0.0}
    return {**drift, "length_chosen": 100, "length_rejected": 100}


@pytest.mark.parametrize(
    ("moved", "severity"), [((-9, -20), "worry"), ((-2, -20), "fine"), ((3, -20), "fine")]
)
def test_displacement(moved: tuple[float, float], severity: str):
    finding = displacement(preference_run(0, 0, after=pairs(8, 2, **logps(*moved))))
    assert finding and finding.severity == severity
    assert f"{abs(moved[0])}\u00a0nats" in finding.text


def test_over_fitting_names_the_step():
    losses = [(0, 0.69), (10, 0.60), (20, 0.55), (30, 0.66)]
    run = RunData(name="r", evals=[{"step": s, "eval/loss": v} for s, v in losses])
    finding = over_fitting(run)
    assert finding and finding.severity == "worry" and "step 20" in finding.text


def test_margins_that_part():
    train = [{"step": i, "rewards/margins": 2.0} for i in range(20)]
    for held_out, severity in ((0.3, "worry"), (1.8, "fine")):
        summary = {"eval_after": {"rewards/margins": held_out}}
        finding = parting(RunData(name="r", train=train, summary=summary))
        assert finding and finding.severity == severity


def test_saturation():
    train = [{"step": i, "rewards/accuracies": 1.0, "loss": 0.01} for i in range(20)]
    finding = saturation(RunData(name="r", train=train))
    assert finding and finding.severity == "worry" and percent(1.0) in finding.text


def test_few_pairs_large_kl_and_rows_set_aside():
    few = evaluation_size(preference_run(20, 5))
    assert few and few.severity == "worry" and "25\u00a0pairs" in few.text
    far = large_kl(RunData(name="r", summary={"kl": {"mean": 61.0, "stderr": 4.0}}))
    assert far and far.severity == "worry" and "61 ± 7.8 nats" in far.text.replace("\u00a0", " ")
    data = {"rows_read": 100, "set_aside": {"identical pair": 30, "too long": 5}}
    aside = rows_set_aside(RunData(name="r", data=data))
    assert aside and aside.severity == "worry" and "identical pair (30)" in aside.text


def test_length_drift_and_length_in_the_labels():
    samples = [{"reference": "x" * (50 + i), "policy": "x" * (150 + i % 3)} for i in range(8)]
    drift = length_drift(RunData(name="r", samples=samples))
    assert drift and drift.severity == "worry" and "longer" in drift.title
    longer = longer_chosen(
        preference_run(0, 0, after=pairs(30, 10, length_chosen=9, length_rejected=4))
    )
    assert longer and longer.severity == "worry" and percent(1.0) in longer.text


def test_status_of_a_finished_run_is_quiet():
    assert status(RunData(name="r", summary={"status": "done"})) is None


def test_wording():
    assert short(0.123456) == "0.123" and short(1234.5) == "1,234" and short(-1.5) == "−1.50"
    assert short(1e-6) == "1.0e-6".replace("-", "−") and short(None) == "–"
    assert duration(80.4) == "1\u00a0min 20\u00a0s" and duration(3700) == "1\u00a0h 1\u00a0min"
