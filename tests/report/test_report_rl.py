"""The page of an RL run: verdict on the reward, its checks, its curves."""

import pytest

from redpencil.report.figures import curves
from redpencil.report.rollouts import clipped, cut_off
from redpencil.report.rundata import RunData
from redpencil.report.verdict import judge


def run(before=0.1, after=0.9, stderr=0.1, **changed):
    metrics = {"reward": after, "kl": 2.0, "objective": after - 0.2, "length": 20, "finished": 0.9}
    options = {
        "name": "rl",
        "recipe": {"stage": "rl", "beta": 0.1, "max_new_tokens": 32, "max_steps": 2},
        "train": [{"step": n, "loss": 0.1, "reward": 0.2, "policy/clipped": 0.05} for n in (1, 2)],
        "evals": [
            {"step": 0, "eval/reward": before, "eval/kl": 0.0},
            {"step": 2, **{f"eval/{k}": v for k, v in metrics.items()}},
        ],
        "summary": {
            "status": "done",
            "steps": 2,
            "reward": {
                "before": {"mean": before, "stderr": stderr},
                "after": {"mean": after, "stderr": stderr},
            },
        },
        **changed,
    }
    return RunData(**options)


@pytest.mark.parametrize(
    ("after", "stderr", "tone", "words"),
    [
        (0.9, 0.1, "good", "rose from 0.10 to 0.90"),
        (-0.9, 0.1, "bad", "fell from 0.10 to"),
        (0.3, 0.1, "unclear", "did not clearly change"),
        (0.3, 0.01, "good", "rose"),
    ],
)
def test_the_verdict_is_on_the_reward_and_knows_its_error(after, stderr, tone, words):
    """1.96 sqrt(2) 0.1 = 0.277: a change of 0.2 is within it."""
    verdict = judge(run(after=after, stderr=stderr))
    assert verdict.tone == tone
    assert words in verdict.sentences[0]
    assert "β = 0.1 times the KL" in verdict.sentences[1]
    assert "Held-out reward" in [f.label for f in verdict.figures]


def test_a_run_in_training_has_no_error_yet():
    verdict = judge(run(summary=None))
    assert (verdict.tone, verdict.headline) == ("unclear", "Too early to say")
    assert "not known before the run ends" in verdict.sentences[0]


def test_without_held_out_prompts_there_is_no_verdict():
    assert judge(run(evals=[])).headline == "Not measured"
    assert judge(run(evals=[], train=[], summary=None)).headline == "Nothing to judge yet"


def test_answers_without_an_end_are_a_worry():
    assert cut_off(run()).severity == "fine"
    evals = [{"step": 0, "eval/finished": 0.9}, {"step": 2, "eval/finished": 0.5}]
    found = cut_off(run(evals=evals))
    assert found.severity == "worry"
    assert "50" in found.text and "32 tokens" in found.text


def test_steps_beyond_the_clip_are_a_worry():
    assert clipped(run()).severity == "fine"
    train = [{"step": n, "loss": 0.1, "policy/clipped": 0.4} for n in range(1, 9)]
    assert clipped(run(train=train)).severity == "worry"
    assert clipped(run(train=[{"step": 1, "loss": 0.0}])) is None


def test_the_curves_of_rollouts():
    shown = {c["id"]: c for c in curves(run())}
    assert {"reward", "clipped", "loss"} <= shown.keys()
    assert "surrogate" in shown["loss"]["explained"]
    assert [s["label"] for s in shown["reward"]["series"]] == ["rollouts", "held-out prompts"]
