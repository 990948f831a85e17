"""What to worry about: each check looks at one known way in which alignment goes wrong.

A check is a pure function from a run to a finding, or None where the run holds nothing to judge
it by. Every finding is a plain sentence with its number; a worry also says what to do.
"""

from collections.abc import Callable

from redpencil.report.data_checks import (
    evaluation_size,
    length_drift,
    longer_chosen,
    rows_set_aside,
)
from redpencil.report.estimates import mean
from redpencil.report.findings import Finding
from redpencil.report.reward_checks import calibrated, pays_for_length
from redpencil.report.rollouts import clipped, cut_off
from redpencil.report.rundata import RunData, difference, mapping, number, present
from redpencil.report.wording import count, percent, short

FALL_PER_TOKEN = 0.05
"""Nats a scored token by which the chosen's log-probability may fall before it is a worry."""
FALL = 5.0
"""The same for a whole response."""
LARGE_KL = 25.0
NO_WEIGHT = 0.05
HARDLY_MOVED = 0.01


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
            "Read the samples below. If they got worse: lower the learning rate, "
            f"{run.to_stay_close}, "
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
            f"{run.to_stay_close.capitalize()} or lower the learning rate; read the samples.",
        )
    return Finding(
        "large-kl",
        "fine",
        "Distance from the reference",
        f"KL divergence {shown} nats a response.",
    )


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
    calibrated,
    pays_for_length,
    cut_off,
    clipped,
    rows_set_aside,
)
