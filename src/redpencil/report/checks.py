"""What to worry about: each check looks at one known way in which alignment goes wrong.

A check is a pure function from a run to a finding, or None where the run holds nothing to judge
it by. Every finding is a plain sentence with its number; a worry also says what to do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from redpencil.report.estimates import clustered_share, mean, mean_and_error
from redpencil.report.rundata import RunData, difference, mapping, number, present
from redpencil.report.wording import count, percent, short

Severity = Literal["alarm", "worry", "fine"]

FEW_PAIRS = 100
SET_ASIDE_SHARE = 0.1
FALL_PER_TOKEN = 0.05
"""Nats a scored token by which the chosen's log-probability may fall before it is a worry."""
FALL = 5.0
"""The same for a whole response."""
LARGE_KL = 25.0
NO_WEIGHT = 0.05
LONGER_CHOSEN = 0.6
HARDLY_MOVED = 0.01


@dataclass(frozen=True, slots=True)
class Finding:
    """key: stable name for tests and links. advice: "" where nothing needs doing."""

    key: str
    severity: Severity
    title: str
    text: str
    advice: str = ""


def status(run: RunData) -> Finding | None:
    if run.finished:
        return None
    planned = f" of {run.planned_steps:,}" if run.planned_steps else ""
    return Finding(
        "unfinished",
        "worry",
        "The run is not finished",
        f"The folder holds {run.steps:,}{planned} steps and no summary: the run is still training, "
        "or was stopped. Everything below is as of the last line it wrote.",
        "Repeat the same command to go on from the last checkpoint.",
    )


def damaged_files(run: RunData) -> Finding | None:
    if not run.damaged:
        return None
    return Finding(
        "damaged",
        "worry",
        "Some of the run's files are damaged",
        f"Left out of this page: {'; '.join(run.damaged)}.",
        "Look at the files in the run folder; a full disk is the usual cause.",
    )


def non_finite(run: RunData) -> Finding | None:
    """Metrics that were NaN or infinite stand as null in the file."""
    bad = [row["step"] for row in run.train if "loss" in row and number(row, "loss") is None]
    if not bad:
        return None
    return Finding(
        "non-finite",
        "alarm",
        "The loss became infinite or undefined",
        f"The loss is not a number in {count(len(bad), 'step')}, first in step {int(bad[0]):,}.",
        "Lower the learning rate; look at the rows of that batch.",
    )


def evaluation_size(run: RunData) -> Finding | None:
    """Too few held-out pairs to tell chance from learning."""
    if not run.has_preferences:
        return None
    pairs = len(run.after) or int(number(run.data, "eval_pairs") or 0)
    if not pairs and not run.evals:
        return Finding(
            "no-evaluation",
            "alarm",
            "Nothing was held out",
            "No pairs were kept back from training, so nothing here can tell learning the answers "
            "by heart from learning what makes them better.",
            "Leave --eval-fraction above 0, or give --eval-data.",
        )
    if not pairs:
        return None
    if pairs >= FEW_PAIRS:
        return Finding(
            "few-pairs", "fine", "Enough to judge by", f"Judged on {count(pairs, 'held-out pair')}."
        )
    return Finding(
        "few-pairs",
        "worry",
        "Few pairs to judge by",
        f"Only {count(pairs, 'pair')} held out: the accuracy could be off by "
        f"{percent(0.98 / pairs**0.5)} either way by chance alone.",
        f"Hold out at least {FEW_PAIRS} pairs (--eval-fraction, or --eval-data).",
    )


def displacement(run: RunData) -> Finding | None:
    """Likelihood displacement: the chosen's log-probability falls together with the rejected's."""
    chosen, rejected = _drift(run)
    if chosen is None or rejected is None:
        return None
    drifts = f"chosen answers {_moved(chosen)}, rejected answers {_moved(rejected)}"
    lengths = present([p.length_chosen for p in run.after])
    tolerated = min(FALL, FALL_PER_TOKEN * mean(lengths)) if lengths else FALL
    if chosen < 0 and rejected < 0:
        return Finding(
            "displacement",
            "worry" if chosen < -tolerated else "fine",
            "Chosen answers became less likely too" if chosen < -tolerated else "Likelihoods",
            f"Log-probability per answer, on average: {drifts}. Both fell, the rejected "
            f"{'more' if rejected < chosen else 'less'}"
            + (
                ": the model learned what to avoid, and the probability went to answers that are "
                "in neither column (likelihood displacement)."
                if chosen < -tolerated
                else ", and the chosen only slightly."
            ),
            "Read the samples below. If they got worse: lower the learning rate, raise --beta, "
            "or first fit the chosen answers (--reference preferred-ft)."
            if chosen < -tolerated
            else "",
        )
    return Finding(
        "displacement", "fine", "Likelihoods", f"Log-probability per answer, on average: {drifts}."
    )


def _drift(run: RunData) -> tuple[float | None, float | None]:
    """Mean change of log-probability in nats, chosen and rejected, since before training."""
    sides = []
    for side in ("chosen", "rejected"):
        moved = present(
            [
                difference(getattr(p, f"logp_{side}"), getattr(p, f"ref_logp_{side}"))
                for p in run.after
            ]
        )
        before, after = run.held_out(f"logps/{side}")
        sides.append(mean(moved) if moved else difference(after, before))
    return sides[0], sides[1]


def _moved(nats: float) -> str:
    word = "rose" if nats > 0 else "fell"
    return f"{word} by {short(abs(nats))}\u00a0nats"


def over_fitting(run: RunData) -> Finding | None:
    """The held-out loss turns while training goes on."""
    losses = [(int(row["step"]), number(row, "eval/loss")) for row in run.evals]
    known = [(step, loss) for step, loss in losses if loss is not None]
    if len(known) < 3:
        return None
    best_step, best = min(known, key=lambda pair: pair[1])
    last_step, last = known[-1]
    if last > best * 1.02 and best_step < last_step:
        return Finding(
            "over-fitting",
            "worry",
            "The held-out loss turned upwards",
            f"It was lowest at step {best_step:,} ({short(best)}) and ended at {short(last)}: what "
            "was learned after that did not carry over to new prompts.",
            f"Stop at step {best_step:,} (--max-steps), or lower the learning rate.",
        )
    return Finding(
        "over-fitting",
        "fine",
        "Held-out loss",
        f"It ended at {short(last)}, "
        + ("its lowest." if best_step == last_step else f"near its lowest, {short(best)}."),
    )


def parting(run: RunData) -> Finding | None:
    """Training margins grow away from held-out ones: answers learned by heart."""
    tail = _tail(run, "rewards/margins")
    _, held_out = run.held_out("rewards/margins")
    if tail is None or held_out is None:
        return None
    facts = (
        f"margin {short(tail)} on training pairs (last tenth of the steps), "
        f"{short(held_out)} on held-out pairs"
    )
    if tail > 2 * max(held_out, 0.0) + 0.1:
        return Finding(
            "parting",
            "worry",
            "Training and held-out margins part",
            f"Over-fitting: {facts}. The model separates answers that it was shown far better than "
            "new ones.",
            "Fewer epochs, a lower learning rate or more data.",
        )
    return Finding("parting", "fine", "Training against held-out", f"In step: {facts}.")


def _tail(run: RunData, name: str) -> float | None:
    """Mean of a training metric over the last tenth of the logged steps (at least five)."""
    values = present([number(row, name) for row in run.train])
    return mean(values[-max(5, len(values) // 10) :]) if values else None


def saturation(run: RunData) -> Finding | None:
    """Weights gone to zero: no gradient is left to learn from."""
    accuracy, loss = _tail(run, "rewards/accuracies"), _tail(run, "loss")
    weights = present([p.weight for p in run.after])
    if accuracy is None or loss is None or run.recipe.get("loss", "dpo") != "dpo":
        return None
    spent = mean([float(w < NO_WEIGHT) for w in weights]) if weights else 0.0
    if (accuracy >= 0.99 and loss < 0.1) or spent > 0.8:
        held_out = (
            f"; {percent(spent)} of held-out pairs have a weight below {NO_WEIGHT}"
            if weights
            else ""
        )
        return Finding(
            "saturation",
            "worry",
            "There was little left to learn from",
            f"Saturated: training pairs ended {percent(accuracy)} correct at a loss of "
            f"{short(loss)}{held_out}. Further steps only push what is already ordered.",
            "Fewer steps would have done; for more progress use harder or fresh pairs.",
        )
    return Finding(
        "saturation",
        "fine",
        "Still learning",
        f"Training pairs ended {percent(accuracy)} correct at a loss of {short(loss)}: "
        "not saturated.",
    )


def hardly_moved(run: RunData) -> Finding | None:
    margins = present([p.margin for p in run.after])
    _, logged = run.held_out("rewards/margins")
    size = mean([abs(m) for m in margins]) if margins else logged
    if size is None or abs(size) >= HARDLY_MOVED:
        return None
    return Finding(
        "hardly-moved",
        "worry",
        "The model has hardly moved",
        f"The margins are {short(abs(size))} in size on average, after {count(run.steps, 'step')} "
        f"at a learning rate of {short(number(run.recipe, 'learning_rate'))}: next to no change.",
        "Raise the learning rate or train longer.",
    )


def length_drift(run: RunData) -> Finding | None:
    """Do the policy's samples grow or shrink against the reference's?"""
    both = [
        (len(str(s["reference"])), len(str(s["policy"])))
        for s in run.samples
        if s.get("reference") and s.get("policy")
    ]
    if len(both) < 5:
        return None
    reference, policy = (mean([float(b[i]) for b in both]) for i in (0, 1))
    change, error = mean_and_error([float(p - r) for r, p in both])
    facts = (
        f"{policy:,.0f} characters on average against {reference:,.0f} before "
        f"({count(len(both), 'sample')})"
    )
    ratio = policy / reference
    if (ratio > 1.5 or ratio < 1 / 1.5) and abs(change) > 2 * error:
        return Finding(
            "length-drift",
            "worry",
            f"Answers became much {'longer' if ratio > 1 else 'shorter'}",
            f"The policy's samples have {facts}.",
            "Check whether length is what the labels reward (see below); balance the pairs by "
            "length, or raise --beta.",
        )
    return Finding("length-drift", "fine", "Length of the answers", f"Samples have {facts}.")


def large_kl(run: RunData) -> Finding | None:
    given = mapping(run.summary or {}, "kl")
    kl, error = number(given, "mean"), number(given, "stderr")
    if kl is None:
        kl = run.held_out("kl")[1]
    if kl is None:
        return None
    shown = short(kl) + (f" ± {short(error, 2)}" if error else "")
    if kl > LARGE_KL:
        return Finding(
            "large-kl",
            "worry",
            "The model moved far from where it started",
            f"KL divergence from the reference: {shown} nats a response, above {LARGE_KL:.0f}. "
            "Far from the reference its implicit reward is extrapolated and can be fooled.",
            "Raise --beta or lower the learning rate; read the samples.",
        )
    return Finding(
        "large-kl",
        "fine",
        "Distance from the reference",
        f"KL divergence {shown} nats a response.",
    )


def longer_chosen(run: RunData) -> Finding | None:
    """Is length a shortcut in these labels?"""
    known = [
        (p, p.length_chosen, p.length_rejected)
        for p in run.after or run.before
        if p.length_chosen is not None and p.length_rejected is not None
    ]
    unequal = [(p, float(a > b)) for p, a, b in known if a != b]
    if len(unequal) < 20:
        return None
    share = clustered_share((p.prompt, longer) for p, longer in unequal)
    facts = f"the longer answer is the chosen one in {percent(share.value)} of held-out pairs"
    if share.value <= LONGER_CHOSEN or share.low <= 0.5:
        return Finding("longer-chosen", "fine", "Length in the labels", f"There {facts}.")
    by_length = []
    for longer in (1.0, 0.0):
        right = present([p.correct for p, was in unequal if was == longer])
        by_length.append(percent(mean(right)) if right else "–")
    return Finding(
        "longer-chosen",
        "worry",
        "Longer answers are preferred in the data",
        f"In these labels {facts}. The model orders {by_length[0]} of those correctly, and "
        f"{by_length[1]} of the pairs where the shorter one is better.",
        "If the second number is low, length was learned as a shortcut: balance the pairs.",
    )


def rows_set_aside(run: RunData) -> Finding | None:
    read = number(run.data, "rows_read")
    aside = sum(run.set_aside.values())
    if not read:
        return None
    facts = f"{aside:,} of {read:,.0f} rows ({percent(aside / read, 1)}) were set aside"
    if aside / read > SET_ASIDE_SHARE:
        reason = max(run.set_aside, key=lambda r: run.set_aside[r])
        return Finding(
            "set-aside",
            "worry",
            "Many rows could not be used",
            f"{facts}, mostly: {reason} ({run.set_aside[reason]:,}).",
            "They are listed in dropped.jsonl with row and reason.",
        )
    return Finding("set-aside", "fine", "Data", f"{facts}.")


CHECKS: tuple[Callable[[RunData], Finding | None], ...] = (
    status,
    damaged_files,
    non_finite,
    evaluation_size,
    hardly_moved,
    displacement,
    over_fitting,
    parting,
    saturation,
    large_kl,
    length_drift,
    longer_chosen,
    rows_set_aside,
)
