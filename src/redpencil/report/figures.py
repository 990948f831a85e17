"""Curves and histograms as plain data: what is drawn, in words the page can show as a table too."""

from collections.abc import Sequence
from typing import Any

from redpencil.report.estimates import mean
from redpencil.report.rundata import Row, RunData, number, present
from redpencil.report.wording import nats, percent, settled, short

LN2 = 0.6931471805599453
POINTS = 400
"""At most so many points a curve; more steps are averaged in buckets."""
BINS = 40
TOO_NARROW = 3.0
"""So many times as high as the highest bar of now, those of before would flatten it: margins that
begin at 0, or all near one value, are said in words instead."""

_OF_LOGPS = ("rewards/margins", "rewards/chosen", "rewards/rejected", "logps/", "kl", "objective")
"""Metrics that are 0 where they are 0 but for the rounding of log-probabilities."""

Figure = dict[str, Any]

# id, title, what it says, metrics (name, label), reference line (value, label)
_CURVES: tuple[tuple[str, str, str, tuple[tuple[str, str], ...], tuple[float, str] | None], ...] = (
    (
        "loss",
        "Loss",
        "What training lowers. For DPO it starts at ln 2 ≈ 0.693: no preference yet.",
        (("loss", "training"), ("eval/loss", "held out")),
        (LN2, "ln 2"),
    ),
    (
        "accuracy",
        "Pairs ordered correctly",
        "Share of pairs whose chosen answer has the higher implicit reward; 0.5 is a coin toss.",
        (("rewards/accuracies", "training"), ("eval/rewards/accuracies", "held out")),
        (0.5, "coin toss"),
    ),
    (
        "margin",
        "Margin",
        "Implicit reward of the chosen answer minus that of the rejected. If the two curves part, "
        "the model learns by heart.",
        (("rewards/margins", "training"), ("eval/rewards/margins", "held out")),
        None,
    ),
    (
        "rewards",
        "Implicit rewards",
        "β · (log π − log π_ref): above 0 an answer is likelier than for the reference.",
        (
            ("rewards/chosen", "chosen, training"),
            ("rewards/rejected", "rejected, training"),
            ("eval/rewards/chosen", "chosen, held out"),
            ("eval/rewards/rejected", "rejected, held out"),
        ),
        (0.0, "the reference"),
    ),
    (
        "logps",
        "Log-probabilities",
        "How likely the model finds whole answers, in nats. When both fall, probability goes to "
        "answers in neither column.",
        (
            ("logps/chosen", "chosen, training"),
            ("logps/rejected", "rejected, training"),
            ("eval/logps/chosen", "chosen, held out"),
            ("eval/logps/rejected", "rejected, held out"),
        ),
        None,
    ),
    (
        "reward",
        "Reward",
        "Of the policy's own answers; what the KL costs is not taken off.",
        (("reward", "rollouts"), ("eval/reward", "held-out prompts")),
        None,
    ),
    (
        "objective",
        "Objective",
        "Reward less β times the KL: what is maximised.",
        (("objective", "rollouts"), ("eval/objective", "held-out prompts")),
        None,
    ),
    (
        "perplexity",
        "Perplexity",
        "How many equally likely next tokens the model hesitates between; lower is better.",
        (("eval/perplexity", "held out"),),
        None,
    ),
    (
        "kl",
        "KL from the reference",
        "How far the model is from its reference, in nats a response; 0 is not at all.",
        (("kl", "training"), ("eval/kl", "held-out prompts")),
        None,
    ),
    (
        "length",
        "Length of answers",
        "In tokens, the end included.",
        (("length", "rollouts"), ("eval/length", "held-out prompts")),
        None,
    ),
    (
        "clipped",
        "Tokens clipped",
        "Share of tokens whose probability moved beyond the clip since they were drawn.",
        (("policy/clipped", "training"),),
        None,
    ),
    (
        "grad_norm",
        "Gradient norm",
        "Size of the update direction before clipping. Spikes are batches that disagree.",
        (("grad_norm", "training"),),
        None,
    ),
    (
        "learning_rate",
        "Learning rate",
        "Step size: warm-up, then decay.",
        (("learning_rate", "training"),),
        None,
    ),
)


_OF_REWARDS = {
    "loss": "What training lowers, −log σ(r_w − r_l): ln 2 ≈ 0.693 is no preference.",
    "accuracy": "Share of pairs whose chosen answer has the higher reward; 0.5 is a coin toss.",
    "margin": "Reward of the chosen answer minus that of the rejected. If the two curves part, the "
    "model learns by heart.",
    "rewards": "Only differences are learned; the level is set to 0 in the saved model.",
}
"""What the curves of a reward model say instead."""

_OF_OWN_REWARDS = {
    "accuracy": _OF_REWARDS["accuracy"],
    "margin": _OF_REWARDS["margin"],
    "rewards": "What the objective holds an answer to be worth.",
}
"""And those of an objective that returns rewards of its own."""


def curves(run: RunData) -> list[Figure]:
    """One figure for each family of metrics that the run has (two points at least)."""
    figures = []
    for key, title, explained, metrics, line in _CURVES:
        series = [s for name, label in metrics if (s := series_of(run, name, label))]
        if not series:
            continue
        if key == "loss" and not (run.has_preferences and run.recipe.get("loss", "dpo") == "dpo"):
            explained, line = "What training lowers: nats a token, for text.", None
            if run.has_preferences:
                explained = "What training lowers."
            if run.is_rl:
                explained = (
                    "The surrogate: it says which way to step, its level says nothing. "
                    "See the reward."
                )
        if run.has_own_rewards and key in _OF_OWN_REWARDS:
            explained = _OF_OWN_REWARDS[key]
            title, line = ("Rewards", None) if key == "rewards" else (title, line)
        if run.is_reward and key in _OF_REWARDS:
            explained = _OF_REWARDS[key]
            title, line = ("Rewards", None) if key == "rewards" else (title, line)
        figures.append(
            {
                "id": key,
                "kind": "curve",
                "title": title,
                "explained": explained,
                "series": series,
                "line": {"value": line[0], "label": line[1]} if line else None,
            }
        )
    return figures


def series_of(run: RunData, name: str, label: str) -> Figure | None:
    rows: Sequence[Row] = run.evals if name.startswith("eval/") else run.train
    points = [(float(row["step"]), number(row, name)) for row in rows]
    known = [(step, value) for step, value in points if value is not None]
    if len(known) < 2:
        return None
    said = short
    if name.removeprefix("eval/").startswith(_OF_LOGPS):
        known, said = [(step, settled(value)) for step, value in known], nats
    side = "rejected" if "rejected" in name else "chosen"
    x, y = _thin(known)
    return {
        "label": label,
        "held_out": name.startswith("eval/"),
        "side": side,
        "x": x,
        "y": y,
        "smooth": _smooth(y) if not name.startswith("eval/") and name != "learning_rate" else None,
        "first": said(known[0][1]),
        "last": said(known[-1][1]),
        "low": said(min(v for _, v in known)),
        "high": said(max(v for _, v in known)),
    }


def _thin(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """At most POINTS points: averages of equal runs of steps, each at its last step."""
    size = -(-len(points) // POINTS)
    buckets = [points[i : i + size] for i in range(0, len(points), size)]
    return [b[-1][0] for b in buckets], [_round(mean([y for _, y in b])) for b in buckets]


def _smooth(values: Sequence[float]) -> list[float] | None:
    """A centred running mean; None for curves too short to need one."""
    half = len(values) // 24
    if half < 1:
        return None
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [_round(mean(window)) for window in windows]


def histograms(run: RunData) -> list[Figure]:
    """Margins of the held-out pairs: implicit ones, and the model's own log-probability ones."""
    after = present([p.margin for p in run.after])
    before = present([p.margin for p in run.before])
    figures = []
    if len(after) > 1:
        explained = "Left of 0 the pair is ordered wrongly."
        sides = [("before", before), ("now", after)] if before else [("now", after)]
        title = "Implicit margins" if run.reward_word == "implicit reward" else "Margins"
        figures.append(_histogram("margins", title, explained, "margin", sides))
    own_after = present([p.logp_margin for p in run.after])
    own_before = present([p.logp_margin for p in run.before])
    if not own_before and run.starts_at_reference:
        own_before = present([p.ref_logp_margin for p in run.after])
    if len(own_after) > 1 and own_before:
        explained = (
            "log π(chosen) − log π(rejected), in nats: right of 0 the model itself finds the "
            "chosen answer likelier. Training should move the hill to the right."
        )
        sides = [("before", own_before), ("now", own_after)]
        title = "Which answer the model finds likelier"
        figures.append(_histogram("logp-margins", title, explained, "nats", sides))
    return figures


def _histogram(
    key: str, title: str, explained: str, unit: str, sides: Sequence[tuple[str, list[float]]]
) -> Figure:
    """Bins with an edge at 0 over the middle 99 % of all values; the outer bins take the rest. What
    was before training is left to a sentence where its bars would flatten those of now."""
    everything = sorted(v for _, values in sides for v in values)
    cut = len(everything) // 200
    low, high = min(everything[cut], 0.0), max(everything[-1 - cut], 0.0)
    width = (high - low) / BINS or 1.0
    below = -(-int(-low / width * 1000) // 1000)
    first = -below * width
    bins = below + max(1, round(high / width))
    series: list[Figure] = []
    for label, values in sides:
        counts = [0] * bins
        for value in values:
            counts[min(bins - 1, max(0, int((value - first) // width)))] += 1
        right = mean([(v > 0) + (v == 0) / 2 for v in values])
        row = {"label": label, "counts": counts, "mean": nats(mean(values))}
        series.append({**row, "median": nats(_median(values)), "right": percent(right)})
    before = next((s for s in series if s["label"] == "before"), None)
    if before and max(before["counts"]) > TOO_NARROW * max(series[-1]["counts"]):
        explained = f"{explained} {_in_words(dict(sides)['before'])}"
        series.remove(before)
    centres = [_round(first + (i + 0.5) * width) for i in range(bins)]
    return {
        "id": key,
        "kind": "histogram",
        "title": title,
        "explained": explained,
        "unit": unit,
        "centres": centres,
        "width": width,
        "series": series,
    }


def _in_words(values: Sequence[float]) -> str:
    """Margins before training, where they were all about the same."""
    low, high = nats(min(values)), nats(max(values))
    if low == high == "0":
        return "Before training every margin is 0: the model is its reference."
    zeros = sum(v == 0 for v in values)
    ties = f", {zeros:,} of them at 0" if zeros else ""
    return (
        f"Before training they lay between {low} and {high}{ties}: too narrow a peak to be drawn "
        "beside the others."
    )


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[-1 - middle]) / 2


def _round(value: float) -> float:
    """Six significant digits: enough to draw, half the bytes."""
    return float(f"{value:.6g}")
