"""The verdict in words: did it work, by how much, how sure is that, and what to worry about.

Pure functions over a RunData.
"""

import math
from dataclasses import dataclass
from typing import Literal

from redpencil.intervals import Z95, wilson_interval
from redpencil.report.change import loss_change, order_change
from redpencil.report.checks import CHECKS
from redpencil.report.estimates import Mean, Share, clustered_share, mean
from redpencil.report.findings import Finding
from redpencil.report.rollouts import on_rollouts
from redpencil.report.rundata import RunData, difference, mapping, number, present
from redpencil.report.wording import (
    NBSP,
    count,
    percent,
    percent_range,
    plain,
    points,
    short,
    signed,
    with_half,
)

Tone = Literal["good", "unclear", "bad"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number to show large. before: what it was, in words, or ""."""

    label: str
    value: str
    before: str
    explained: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """tone: for the colour. worries and fine: findings of the checks, alarms first."""

    tone: Tone
    headline: str
    sentences: tuple[str, ...]
    figures: tuple[Figure, ...]
    accuracy: Share | None
    worries: tuple[Finding, ...]
    fine: tuple[Finding, ...]


def judge(run: RunData) -> Verdict:
    """The verdict on a run of any stage, finished or not."""
    accuracy = held_out_accuracy(run)
    findings = [f for f in (check(run) for check in CHECKS) if f is not None]
    if run.has_preferences:
        tone, headline, sentences = _on_preferences(run, accuracy)
        findings += _accuracy_findings(accuracy)
    elif run.is_rl:
        tone, headline, sentences = on_rollouts(run)
    else:
        tone, headline, sentences = _on_text(run)
    rising, sentence, disagreement = _true_reward(run, tone)
    if sentence:
        sentences.insert(0, sentence)
    if disagreement:
        tone, headline = "bad" if rising < 0 else "unclear", disagreement.title
        findings.append(disagreement)
    order = {"alarm": 0, "worry": 1}
    worries = sorted((f for f in findings if f.severity != "fine"), key=lambda f: order[f.severity])
    return Verdict(
        tone=tone,
        headline=headline,
        sentences=tuple(sentences),
        figures=tuple(_figures(run, accuracy)),
        accuracy=accuracy,
        worries=tuple(worries),
        fine=tuple(f for f in findings if f.severity == "fine"),
    )


def held_out_accuracy(run: RunData) -> Share | None:
    """Share of held-out pairs ordered correctly by the (implicit) reward, ties one half."""
    outcomes = [(p.prompt, p.correct) for p in run.after]
    known = [(prompt, correct) for prompt, correct in outcomes if correct is not None]
    if known:
        return clustered_share(known)
    _, logged = run.held_out("rewards/accuracies")
    pairs = int(number(run.data, "eval_pairs") or 0)
    if logged is None or not pairs or not 0 <= logged <= 1:
        return None
    prompts = int(number(run.data, "eval_prompts") or pairs)
    # Without the pairs the design effect is unknown: count prompts, the cautious end.
    worth = min(prompts, pairs)
    return Share(logged, *wilson_interval(logged, worth), pairs, prompts, worth)


def _on_preferences(run: RunData, accuracy: Share | None) -> tuple[Tone, str, list[str]]:
    if accuracy is None:
        if not run.train:
            return "unclear", "Nothing to judge yet", ["No training step has been logged."]
        text = "No held-out pair was evaluated after training began, so there is no verdict yet."
        return "unclear", "Too early to say" if not run.finished else "Not measured", [text]
    before, _ = run.held_out("rewards/accuracies")
    # A reward model begins with a head of noise: what it was right in then is chance.
    was = 0.5 if before is None or run.is_reward else before
    toss = ": a coin toss" if percent(was) == percent(0.5) else ""
    tone: Tone = "unclear"
    headline = "No clear improvement"
    rose = _loss_above_its_start(run)
    change = None if was == 0.5 else order_change(run)
    direction = _direction(accuracy, was, change)
    if accuracy.high < 0.5:
        tone, headline = "bad", "It went the wrong way"
    elif direction < 0:
        tone, headline = "bad", "It got worse"
    elif accuracy.low > 0.5 and direction > 0:
        tone, headline = "good", "It worked" if run.finished else "It is working so far"
        if rose:
            tone, headline = "unclear", "Better ordered, but over-fitted"
    counted = count(accuracy.count, "held-out pair")
    compared = f"{percent(was)} before training{toss}"
    if change is not None and change.half:
        compared += f", a change of {points(change.value, change.half)} points"
    if run.is_reward:
        compared = f"a coin toss: {percent(0.5)}"
    sentences = [
        f"On {counted} the model now orders {percent(accuracy.value)} correctly "
        f"({compared}); 95{chr(160)}% interval "
        f"{percent_range(accuracy.low, accuracy.high)}."
    ]
    return tone, headline, sentences + rose + _own_preference(run)


def _direction(accuracy: Share, was: float, change: Mean | None) -> int:
    """1 where more pairs are in order than before training, -1 where fewer, 0 where chance could
    make it. change: on the same pairs; None where the model had no opinion before."""
    if change is not None:
        return int(change.above(0.0)) - int(change.below(0.0))
    return int(accuracy.low > was) - int(accuracy.high < was)


def _loss_above_its_start(run: RunData) -> list[str]:
    """Confident mistakes cost more than what was learned gains: said in a sentence, else none."""
    before, after = run.held_out("loss")
    change = loss_change(run)
    if change is None or not change.above(0.0):
        return []
    return [
        f"Its held-out loss is {short(after)}, above the {short(before)} before training: where it "
        "is wrong, it has become too sure."
    ]


def _own_preference(run: RunData) -> list[str]:
    """What the model itself finds likelier: informative even where the margins began at 0."""
    now = present([p.logp_margin for p in run.after])
    then = present([p.logp_margin for p in run.before])
    if not then and run.starts_at_reference:
        then = present([p.ref_logp_margin for p in run.after])
    if not now or not then:
        return []
    shares = [percent(mean([(m > 0) + (m == 0) / 2 for m in side])) for side in (then, now)]
    return [
        f"It finds the better answer the likelier one in {shares[1]} of the pairs "
        f"({shares[0]} before)."
    ]


def _accuracy_findings(accuracy: Share | None) -> list[Finding]:
    """Words by the interval, not by the share: below one half, above it, or neither."""
    if accuracy is None:
        return []
    interval = f"{percent(accuracy.value)}, interval {percent_range(accuracy.low, accuracy.high)}"
    if accuracy.high < 0.5:
        return [
            Finding(
                "below-half",
                "alarm",
                "Worse than a coin toss",
                f"Held-out accuracy is below 50{chr(160)}%: {interval}.",
                "Check that the columns chosen and rejected are not swapped, and read the pairs "
                "below.",
            )
        ]
    if accuracy.low <= 0.5:
        return [
            Finding(
                "not-significant",
                "worry",
                "It cannot be told from a coin toss",
                f"On {count(accuracy.count, 'held-out pair')} chance alone could make this share: "
                f"{interval}.",
                "Hold out more pairs, train longer, or raise the learning rate.",
            )
        ]
    return []


def _on_text(run: RunData) -> tuple[Tone, str, list[str]]:
    """Supervised fine-tuning: how well held-out text is predicted."""
    name = "perplexity" if run.held_out("perplexity")[1] is not None else "loss"
    before, after = run.held_out(name)
    if before is None or after is None:
        trained = present([number(row, "loss") for row in run.train])
        if not trained:
            return "unclear", "Nothing to judge yet", ["No training step has been logged."]
        first, last = trained[0], mean(trained[-max(1, len(trained) // 10) :])
        text = (
            f"Training loss went from {short(first)} to {short(last)}; nothing held out was "
            "evaluated before and after, so there is no verdict."
        )
        return "unclear", "Too early to say" if not run.finished else "Not measured", [text]
    what = f"{name.capitalize()} on held-out text"
    explained = (
        " Perplexity is how many equally likely next tokens the model hesitates between: lower "
        "is better, 1 is certainty."
        if name == "perplexity"
        else ""
    )
    if after < before * 0.99:
        headline = "It worked" if run.finished else "It is working so far"
        return "good", headline, [f"{what} fell from {short(before)} to {short(after)}.{explained}"]
    if after > before * 1.01:
        text = f"{what} rose from {short(before)} to {short(after)}.{explained}"
        return "bad", "It got worse", [text]
    text = f"{what} stayed where it was: {short(before)} before, {short(after)} now.{explained}"
    return "unclear", "No clear improvement", [text]


def _true_reward(run: RunData, tone: Tone) -> tuple[float, str, Finding | None]:
    """(z-like sign of the change, sentence, a finding when it contradicts the accuracy)."""
    true = mapping(run.summary or {}, "true_reward")
    before, after = number(true, "before"), number(true, "after")
    if before is None or after is None:
        return 0.0, "", None
    errors = [number(true, f"stderr_{when}") or 0.0 for when in ("before", "after")]
    error = Z95 * math.hypot(*errors)
    change = after - before
    interval = f" (change {signed(change)}" + (f" ± {plain(error)})" if error else ")")
    verb = "rose" if change > error else "fell" if change < -error else "did not clearly change:"
    sentence = f"The true reward of its samples {verb} from {plain(before)} to {plain(after)}"
    sentence += f"{interval}."
    if tone == "good" and change <= error:
        finding = Finding(
            "true-reward",
            "alarm" if change < -error else "worry",
            "It learned the labels, not the goal",
            f"It orders held-out pairs better, yet {sentence[0].lower()}{sentence[1:]}",
            f"The implicit reward is being exploited: {run.to_stay_close} or stop earlier.",
        )
        return change, sentence, finding
    return change, sentence, None


def _figures(run: RunData, accuracy: Share | None) -> list[Figure]:
    """Up to four numbers to show large."""
    figures = []
    true = mapping(run.summary or {}, "true_reward")
    if number(true, "after") is not None:
        before = number(true, "before")
        figures.append(
            Figure(
                "True reward",
                signed(number(true, "after")),
                f"{signed(before)} before",
                "Mean ground-truth reward of fresh samples on held-out prompts.",
            )
        )
    if accuracy is not None:
        before = run.held_out("rewards/accuracies")[0]
        was = f"{percent(0.5 if before is None else before)} before"
        figures.append(
            Figure(
                "Ordered correctly",
                percent(accuracy.value),
                f"a coin toss: {percent(0.5)}" if run.is_reward else was,
                f"Share of held-out pairs whose chosen answer has the higher {run.reward_word}.",
            )
        )
    margin_before, margin = run.held_out("rewards/margins")
    if margin is not None:
        figures.append(
            Figure(
                "Mean margin",
                _margin(run, margin),
                f"{signed(margin_before)} before",
                f"{run.reward_word.capitalize()} of the chosen answer less that of the rejected.",
            )
        )
    if run.kl is not None:
        figures.append(
            Figure(
                "KL from reference",
                with_half(run.kl, run.kl_half),
                "nats a response",
                "How far the model is from its reference: 0 is not at all.",
            )
        )
    figures += _reward_figures(run)
    if not run.has_preferences:
        figures += _held_out_figures(run)
    return figures


def _margin(run: RunData, logged: float) -> str:
    """With half its interval where the pairs are known."""
    found = run.mean_margin
    if found is None or not found.half:
        return signed(logged)
    return f"{signed(found.value)}{NBSP}±{NBSP}{plain(found.half)}"


def _reward_figures(run: RunData) -> list[Figure]:
    figures = []
    error = number(mapping(run.summary or {}, "calibration"), "expected_error")
    if error is not None:
        explained = "How far its certainty is from the observed share, on average."
        figures.append(Figure("Calibration error", percent(error, 1), "0 is exact", explained))
    correlation = number(run.summary or {}, "length_correlation")
    if correlation is not None:
        explained = "Correlation of an answer's reward with its tokens."
        figures.append(Figure("Reward and length", signed(correlation), "0 is none", explained))
    return figures


_EXPLAINED = {
    "perplexity": "Lower is better; 1 is certainty.",
    "loss": "Nats a token.",
    "reward": "Mean reward of one answer to each held-out prompt.",
    "length": "Tokens of an answer.",
}


def _held_out_figures(run: RunData) -> list[Figure]:
    figures = []
    for name, line in _EXPLAINED.items():
        before, after = run.held_out(name)
        if after is not None and difference(after, before) is not None:
            label = f"Held-out {name}"
            said = plain if name == "reward" else short
            figures.append(Figure(label, said(after), f"{said(before)} before", line))
    return figures
