"""Words are chosen by intervals; a run says in the terminal what its report says; the card too."""

import json
import math
import random
from pathlib import Path

import pytest
import yaml

from redpencil.report import build_report, conclusion, model_card
from redpencil.report.card import base_of
from redpencil.report.change import loss_change
from redpencil.report.data_checks import longer_chosen
from redpencil.report.figures import histograms
from redpencil.report.health import displacement, large_kl, over_fitting
from redpencil.report.reward_checks import pays_for_length
from redpencil.report.rollouts import cut_off
from redpencil.report.rundata import Pair, RunData, read_run
from redpencil.report.verdict import held_out_accuracy, judge

DPO = {"stage": "dpo", "loss": "dpo", "model": "a", "reference": "base"}
DONE = {"status": "done", "steps": 10}


def pairs(margins, **more):
    return [
        Pair(prompt=f"p{i}", pair=i, chosen="a", rejected="b", margin=m, **more)
        for i, m in enumerate(margins)
    ]


def run_of(right, wrong, before=(), **more):
    given = {"recipe": DPO, "summary": DONE, "before": before}
    return RunData(name="r", **{**given, **more}, after=pairs([0.5] * right + [-0.5] * wrong))


@pytest.mark.parametrize(
    ("right", "wrong", "key"),
    [(4, 5, "not-significant"), (5, 4, "not-significant"), (44, 56, "not-significant"),
     (440, 560, "below-half"), (560, 440, None), (1, 12, "below-half"), (12, 1, None)],
)  # fmt: skip
def test_better_or_worse_than_a_coin_toss_is_the_intervals_word(right, wrong, key):
    run = run_of(right, wrong)
    verdict, share = judge(run), held_out_accuracy(run)
    found = {f.key for f in verdict.worries} & {"below-half", "not-significant"}
    assert found == ({key} if key else set())
    assert (share.high < 0.5, share.low > 0.5) == (key == "below-half", key is None)
    swapped = [f for f in verdict.worries if "swapped" in f.advice]
    assert bool(swapped) == (key == "below-half")
    assert "Worse than a coin toss" not in {f.title for f in verdict.worries if f.key != key}


@pytest.mark.parametrize(
    ("turned_right", "turned_wrong", "headline"),
    [(30, 2, "It worked"), (2, 30, "It got worse"), (9, 6, "No clear improvement")],
)
def test_a_model_that_had_an_opinion_is_compared_pair_by_pair(turned_right, turned_wrong, headline):
    """300 pairs of which 200 are right before: too few for the intervals of the shares to part."""
    before = [1.0] * 200 + [-1.0] * 100
    after = [-1.0] * turned_wrong + [1.0] * (200 - turned_wrong)
    after += [1.0] * turned_right + [-1.0] * (100 - turned_right)
    run = RunData(
        name="r",
        recipe={**DPO, "reference": "other"},
        summary={**DONE, "eval_before": {"rewards/accuracies": 2 / 3}},
        before=pairs(before),
        after=pairs(after),
    )
    verdict = judge(run)
    assert verdict.headline == headline
    assert "67" in verdict.sentences[0] and "a change of" in verdict.sentences[0]


@pytest.mark.parametrize(
    ("shift", "rose"), [(0.5, True), (0.002, False), (-0.5, False)], ids=["far", "near", "fell"]
)
def test_a_loss_rose_where_the_pairs_say_so(shift, rose):
    rng = random.Random(0)
    margins = [rng.gauss(0.0, 0.4) for _ in range(200)]
    losses = [math.log1p(math.exp(-m)) for m in margins]
    level = math.fsum(losses) / len(losses)
    run = RunData(
        name="r", recipe=DPO,
        summary={**DONE, "eval_before": {"loss": level - shift}, "eval_after": {"loss": level}},
        before=pairs([0.0] * 200), after=pairs(margins),
    )  # fmt: skip
    change = loss_change(run)
    assert change.above(0.0) == rose
    assert any("held-out loss is" in s for s in judge(run).sentences) == rose
    assert change.half < 0.1  # of the pairs, and not two percent of the loss


def test_a_turn_within_chance_is_none():
    """Four pairs: the loss ends five percent above its lowest, and could by chance."""
    evals = [{"step": s, "eval/loss": v} for s, v in ((0, 0.69), (10, 0.60), (20, 0.63))]
    after = pairs([2.0, -1.5, 1.0, 0.3])
    then = {("eval", p.pair): 0.3 * p.margin for p in after}

    class History:
        def __init__(self, margin):
            self.margins = ((10, margin),)

    histories = {key: History(margin) for key, margin in then.items()}
    run = RunData(name="r", recipe=DPO, evals=evals, after=after, histories=histories)
    assert over_fitting(run).severity == "fine" and "chance" in over_fitting(run).text
    sure = RunData(name="r", recipe={**DPO, "loss": "ipo"}, evals=evals, after=after)
    assert (
        over_fitting(sure).severity == "worry"
    )  # no interval is known, and two percent are passed


def test_numbers_of_few_do_not_choose_words():
    moved = [(-30.0, -40.0), (25.0, -45.0), (-20.0, -2.0)]
    after = [
        Pair(prompt=f"p{i}", pair=i, chosen="a", rejected="b", logp_chosen=c, logp_rejected=r,
             ref_logp_chosen=0.0, ref_logp_rejected=0.0, length_chosen=9, length_rejected=9)
        for i, (c, r) in enumerate(moved)
    ]  # fmt: skip
    assert displacement(RunData(name="r", recipe=DPO, after=after)).severity == "fine"
    assert displacement(RunData(name="r", recipe=DPO, after=after[:1])).severity == "worry"
    kl = {"mean": 30.0, "stderr": 4.0}
    assert large_kl(RunData(name="r", summary={"kl": kl})).severity == "fine"
    assert large_kl(RunData(name="r", summary={"kl": {**kl, "stderr": 1.0}})).severity == "worry"
    cut = {"recipe": {"sample_prompts": 4}, "data": {"eval_prompts": 4}}
    evals = [{"step": 0, "eval/finished": 1.0}, {"step": 1, "eval/finished": 0.5}]
    assert cut_off(RunData(name="r", evals=evals, **cut)).severity == "fine"
    cut = {"recipe": {"sample_prompts": 400}, "data": {"eval_prompts": 400}}
    assert cut_off(RunData(name="r", evals=evals, **cut)).severity == "worry"
    of = {"recipe": {"stage": "reward"}, "summary": {"length_correlation": 0.6}}
    for answers, severity in ((3, "fine"), (8, "fine"), (80, "worry")):
        run = RunData(name="r", data={"eval_responses": answers}, **of)
        assert pays_for_length(run).severity == severity


def test_short_answers_are_a_shortcut_as_long_ones_are():
    for one, other, word in ((9, 4, "Longer"), (4, 9, "Shorter")):
        after = pairs([0.5] * 30 + [-0.5] * 10, length_chosen=one, length_rejected=other)
        found = longer_chosen(RunData(name="r", after=after))
        assert found.severity == "worry" and found.title.startswith(word)


@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-3])
def test_margins_before_training_do_not_flatten_those_of_now(spread):
    rng = random.Random(1)
    now = [rng.gauss(0.3, 1.0) for _ in range(200)]
    before = pairs([spread * rng.uniform(-1, 1) for _ in now])
    (figure,) = histograms(RunData(name="r", recipe=DPO, before=before, after=pairs(now)))
    assert [s["label"] for s in figure["series"]] == ["now"]
    assert "Before training" in figure["explained"]
    assert max(figure["series"][0]["counts"]) < 60
    wide = pairs([rng.gauss(0.0, 1.0) for _ in now])
    (figure,) = histograms(RunData(name="r", recipe=DPO, before=wide, after=pairs(now)))
    assert [s["label"] for s in figure["series"]] == ["before", "now"]


def said(folder):
    return [f"{label:<10}{text}" for label, text in conclusion(folder)]


def rewrite(folder: Path, name: str, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_ends_with_the_words_of_its_report(run_folder):
    lines, verdict = said(run_folder), judge(read_run(run_folder))
    page = build_report(run_folder).read_text()
    assert lines[0].startswith(f"result    {verdict.headline}. ")
    for found in verdict.worries:
        assert sum(found.title in line for line in lines) == 1 and found.title in page
    assert not any(line.startswith("best") for line in lines)  # the last step was the best


@pytest.mark.parametrize(
    ("best", "words"),
    [
        (120, ("best      step 120, where the held-out loss was lowest",)),
        (0, ("best      the held-out loss was lowest before training, at step 0", "0.693")),
    ],
)
def test_the_best_step_is_said_where_it_was_not_the_last(new_run, best, words):
    run = new_run()
    rewrite(run, "summary.json", best_step=best)
    (line,) = [line for line in said(run) if line.startswith("best")]
    assert all(word in line for word in words), line
    assert "redpencil export" not in line  # no such checkpoint is kept
    card = model_card(run, "last", name="m", chat=False)
    assert ("no step was better" in card) == (best == 0)
    assert f"the best step of the run was {best}" in card or best == 0
    (run / "checkpoints" / f"step-{best}").mkdir(parents=True)
    assert (f"redpencil export {run} OUT --step {best}" in "".join(said(run))) == (best > 0)


def front(card):
    return yaml.safe_load(card.split("---")[1])


def test_a_card_has_counts_intervals_and_an_example(run_folder, tmp_path):
    card = model_card(run_folder, "last", name="mine", chat=False)
    assert front(card)["base_model"] == "tiny/reviewer"
    assert front(card)["pipeline_tag"] == "text-generation"
    assert "3,412 pairs of 1,800 prompts" in card and "500 pairs of 250 held-out prompts" in card
    share = held_out_accuracy(read_run(run_folder))
    assert f"{100 * share.low:.0f} to {100 * share.high:.0f} %" in card
    assert "| 5.50 ± 1.2 |" in card and "-0.0" not in card and "nan" not in card
    assert 'from_pretrained("mine")' in card and "apply_chat_template" not in card
    assert "apply_chat_template" in model_card(run_folder, "last", name="mine", chat=True)
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_a_card_of_another_step_has_that_steps_numbers(noted_run):
    run = noted_run()
    last, then = (model_card(run, step, name="m", chat=False) for step in ("last", "40"))
    assert "this is step 40 of 200" in then and "this is step 200 of 200" in last
    assert "What to worry about" not in then
    rows = {line.split(" | ")[0]: line for line in then.splitlines() if line.startswith("| ")}
    others = {line.split(" | ")[0]: line for line in last.splitlines() if line.startswith("| ")}
    assert rows["| pairs in order"] != others["| pairs in order"]
    assert "to" in rows["| pairs in order"]
    assert "was not evaluated" in model_card(run, "7", name="m", chat=False)


def test_a_base_model_is_no_path_on_somebodys_disk(tmp_path):
    assert base_of("org/model") == "org/model" and base_of("gpt2") == "gpt2"
    local = tmp_path / "weights"
    local.mkdir()
    assert base_of(str(local)) is None
    assert base_of(str(tmp_path / "gone")) is None and base_of("./gone") is None
    first, second = tmp_path / "first", tmp_path / "second"
    for run, model in ((first, "org/model"), (second, str(first / "model"))):
        (run / "model").mkdir(parents=True)
        (run / "recipe.yaml").write_text(yaml.safe_dump({"stage": "sft", "model": model}))
    assert base_of(str(second / "model")) == base_of(str(second)) == "org/model"
    snapshot = tmp_path / "models--org--other" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    assert base_of(str(snapshot)) == "org/other"
    circle = tmp_path / "circle"
    circle.mkdir()
    (circle / "recipe.yaml").write_text(yaml.safe_dump({"model": str(circle)}))
    assert base_of(str(circle)) is None
