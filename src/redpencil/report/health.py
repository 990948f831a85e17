"""The health of a run that learns from pairs: six known ways in which it goes wrong.

Each check says what is the matter now, and, where the notebook knows, since which step, and at
which step to stop. `redpencil note` and the page say these same sentences.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from redpencil.report.change import loss_change
from redpencil.report.data_checks import length_drift
from redpencil.report.estimates import Mean, clustered_mean, mean
from redpencil.report.findings import Finding
from redpencil.report.rundata import RunData, difference, number, present
from redpencil.report.starts import starts
from redpencil.report.wording import count, nats, percent, settled, short, with_half

if TYPE_CHECKING:
    from redpencil.notebook import Moment, Trend

FALL_PER_TOKEN = 0.05
"""Nats a scored token by which the chosen's log-probability may fall before it is a worry."""
FALL = 5.0
"""The same for a whole response."""
LARGE_KL = 25.0
NO_WEIGHT = 0.05
TURNED = 0.02
"""Share of its lowest by which the held-out loss must end above that to have turned."""
ALL_SPENT = 0.8
"""Share of pairs without weight from which on there is little left to learn from."""


def displacement(run: RunData) -> Finding | None:
    """Likelihood displacement: the chosen's log-probability falls together with the rejected's."""
    chosen, rejected = _drift(run)
    if chosen is None or rejected is None:
        return None
    drifts = f"chosen answers {_moved(chosen)}, rejected answers {_moved(rejected)}"
    facts = f"Log-probability per answer, on average: {drifts}."
    lengths = present([p.length_chosen for p in run.after])
    tolerated = min(FALL, FALL_PER_TOKEN * mean(lengths)) if lengths else FALL
    both_fell = chosen.below(0.0) and rejected.below(0.0)
    gap = abs(rejected.value - chosen.value)
    sure = gap > math.hypot(chosen.half or 0.0, rejected.half or 0.0)
    which = f"{'more' if rejected.value < chosen.value else 'less'}" if sure else "about as much"
    which = f"Both fell, the rejected {which}"
    if not both_fell or chosen.value >= -tolerated:
        slightly = f" {which}, and the chosen only slightly." if both_fell else ""
        return Finding("displacement", "fine", "Likelihoods", facts + slightly, plot="logps")
    begun = _since(
        run, run.trends.get("eval", ()), lambda m: m.chosen is not None and m.chosen < -tolerated
    )
    return Finding(
        "displacement",
        "worry",
        "Chosen answers became less likely too",
        f"{facts} {which}: the model learned what to avoid, and the probability went to answers "
        f"that are in neither column (likelihood displacement).{begun.said}",
        f"Read the samples. If they got worse: lower the learning rate, {run.to_stay_close}, "
        f"first fit the chosen answers (--reference preferred-ft){begun.stop}.",
        plot="logps",
    )


def _drift(run: RunData) -> tuple[Mean | None, Mean | None]:
    """Mean change of log-probability in nats, chosen and rejected, since before training."""
    began = starts(run)
    sides = []
    for i, side in enumerate(("chosen", "rejected")):
        moved = [
            (p.prompt, difference(getattr(p, f"logp_{side}"), began[p.key][i]))
            for p in run.after
            if p.key in began
        ]
        found = clustered_mean((prompt, nats) for prompt, nats in moved if nats is not None)
        if found is None:
            before, after = run.held_out(f"logps/{side}")
            logged = difference(after, before)
            found = None if logged is None else Mean(logged)
        sides.append(found)
    return sides[0], sides[1]


def _moved(change: Mean) -> str:
    if not settled(change.value):
        return "stayed where they were"
    word = "rose" if change.value > 0 else "fell"
    return f"{word} by {with_half(abs(change.value), change.half)}\u00a0nats"


class _Begun:
    """When something began, in words. said: a sentence with a space before it; stop: a last piece
    of advice, with its comma; both "" where the notebook does not know."""

    def __init__(self, said: str = "", stop: str = "") -> None:
        self.said, self.stop = said, stop


def _since(
    run: RunData, trend: "Trend", holds: "Callable[[Moment], bool]", *, evaluated: bool = True
) -> _Begun:
    """The moment from which on a condition holds up to the last one. evaluated: whether moments are
    evaluations; else training pairs are averaged over windows that end at a step."""
    begun, before = None, None
    for moment in reversed(trend):
        if not holds(moment):
            before = moment
            break
        begun = moment
    if begun is None:
        return _Begun()
    if before is None:
        first = "at the first evaluation, step" if evaluated else "by step"
        return _Begun(f" It was so {first} {begun.step:,}{',' if evaluated else ''} already.")
    the = "the evaluations of " if evaluated else ""
    said = f" It began between {the}step {before.step:,} and step {begun.step:,}."
    return _Begun(said, _stop_at(run, before.step))


def _stop_at(run: RunData, step: int) -> str:
    """A last piece of advice; "" where the held-out loss says that the run was worse off then."""
    losses = {int(row["step"]): number(row, "eval/loss") for row in run.evals}
    known = [loss for loss in losses.values() if loss is not None]
    then = losses.get(step)
    if known and (then is None or then > known[-1]):
        return ""
    return f", or stop at step {step:,} (--max-steps)"


def over_fitting(run: RunData) -> Finding | None:
    """The held-out loss turns while training goes on."""
    losses = [(int(row["step"]), number(row, "eval/loss")) for row in run.evals]
    known = [(step, loss) for step, loss in losses if loss is not None]
    if len(known) < 3:
        return None
    best_step, best = min(known, key=lambda pair: pair[1])
    last_step, last = known[-1]
    change = loss_change(run, best_step)
    if last - best <= TURNED * abs(best) or change is None or not change.above(0.0):
        near = (
            "its lowest."
            if best_step == last_step
            else f"no further above its lowest, {short(best)} at step {best_step:,}, than chance "
            "could make it."
        )
        text = f"It ended at {short(last)}, {near}"
        return Finding("over-fitting", "fine", "Held-out loss", text, plot="loss")
    kinds = run.kinds.get("eval", {})
    broken = kinds.get("broken", 0)
    went = (
        f" {count(broken, 'held-out pair')} that the model had right at the first evaluation "
        f"{'is' if broken == 1 else 'are'} wrong now; {kinds.get('corrected', 0):,} went the other "
        "way."
        if broken
        else ""
    )
    return Finding(
        "over-fitting",
        "worry",
        "The held-out loss turned upwards",
        f"It was lowest at step {best_step:,} ({short(best)}) and ended at {short(last)}: what "
        f"was learned after that did not carry over to new prompts.{went}",
        f"Stop at step {best_step:,} (--max-steps), or lower the learning rate."
        if best_step
        else "It rose from the start: lower the learning rate.",
        plot="loss",
    )


def parting(run: RunData) -> Finding | None:
    """Training margins grow away from held-out ones: answers learned by heart."""
    trained = tail(run, "rewards/margins")
    _, held_out = run.held_out("rewards/margins")
    half = run.mean_margin.half if run.mean_margin else None
    if trained is None or held_out is None:
        return None
    facts = (
        f"margin {nats(trained)} on training pairs (last tenth of the steps), "
        f"{with_half(held_out, half)} on held-out pairs"
    )
    if not _parted(trained, held_out + (half or 0.0)):
        return Finding(
            "parting", "fine", "Training against held-out", f"In step: {facts}.", plot="margin"
        )
    margins = {m.step: m.margin for m in run.trends.get("eval", ())}
    both = [m for m in run.trends.get("train", ()) if m.step in margins]
    begun = _since(run, tuple(both), lambda m: _parted(m.margin, margins[m.step]))
    best_step = max(margins, key=lambda step: margins[step], default=0)
    turned = bool(both) and best_step < both[-1].step
    return Finding(
        "parting",
        "worry",
        "Training and held-out margins part",
        f"Over-fitting: {facts}. The model separates answers that it was shown far better than "
        f"new ones.{begun.said}"
        + (f" The held-out margin was largest at step {best_step:,}." if turned else ""),
        "Fewer epochs, a lower learning rate, more data"
        + (_stop_at(run, best_step) if turned else "")
        + ".",
        plot="margin",
    )


def _parted(trained: float, held_out: float) -> bool:
    return trained > 2 * max(held_out, 0.0) + 0.1


def tail(run: RunData, name: str) -> float | None:
    """Mean of a training metric over the last tenth of the logged steps (at least five)."""
    values = present([number(row, name) for row in run.train])
    return mean(values[-max(5, len(values) // 10) :]) if values else None


def saturation(run: RunData) -> Finding | None:
    """Weights gone to zero: no gradient is left to learn from."""
    accuracy, loss = tail(run, "rewards/accuracies"), tail(run, "loss")
    if accuracy is None or loss is None or run.recipe.get("loss", "dpo") != "dpo":
        return None
    weights = present([p.weight for p in run.after])
    held_out = mean([float(w < NO_WEIGHT) for w in weights]) if weights else 0.0
    trend = run.trends.get("train", ())
    trained = trend[-1].spent if trend else 0.0
    facts = f"training pairs ended {percent(accuracy)} correct at a loss of {short(loss)}"
    if not ((accuracy >= 0.99 and loss < 0.1) or max(held_out, trained) > ALL_SPENT):
        text = f"{facts[0].upper()}{facts[1:]}: there is more to learn from."
        return Finding("saturation", "fine", "Not saturated", text, plot="loss")
    shares = [f"{percent(held_out)} of held-out pairs"] if weights else []
    shares = [f"{percent(trained)} of training pairs", *shares] if trend else shares
    spent = f"; {' and '.join(shares)} have a weight below {NO_WEIGHT}" if shares else ""
    evaluated = bool(run.trends.get("eval"))
    begun = _since(run, trend, lambda m: m.spent > ALL_SPENT, evaluated=evaluated)
    return Finding(
        "saturation",
        "worry",
        "There was little left to learn from",
        f"Saturated: {facts}{spent}. Further steps only push what is already ordered.{begun.said}",
        f"Fewer steps would have done{begun.stop}; for more progress use harder or fresh pairs.",
        plot="loss",
    )


def large_kl(run: RunData) -> Finding | None:
    """How far from its reference the policy went, and when it went too far."""
    if run.kl is None:
        return None
    shown = with_half(run.kl, run.kl_half)
    if not Mean(run.kl, run.kl_half).above(LARGE_KL):
        text = f"KL divergence {shown} nats a response."
        return Finding("large-kl", "fine", "Distance from the reference", text, plot="kl")
    logged = [(int(row["step"]), number(row, "eval/kl")) for row in run.evals]
    known = [(step, value) for step, value in logged if value is not None and step]
    near = [step for step, value in known if value <= LARGE_KL]
    far = [step for step, _ in known if step > max(near, default=0)]
    grew = (
        f" It was within that at step {near[-1]:,} and is beyond since step {far[0]:,}."
        if near and far
        else ""
    )
    stop = _stop_at(run, near[-1]) if grew else ""
    return Finding(
        "large-kl",
        "worry",
        "The model is far from its reference",
        f"KL divergence from the reference: {shown} nats a response, above {LARGE_KL:.0f}. "
        f"Far from the reference its implicit reward is extrapolated and can be fooled.{grew}",
        f"{run.to_stay_close.capitalize()}, lower the learning rate{stop}; read the samples.",
        plot="kl",
    )


HEALTH: tuple[Callable[[RunData], Finding | None], ...] = (
    displacement,
    over_fitting,
    parting,
    saturation,
    large_kl,
    length_drift,
)


def health(run: RunData) -> tuple[Finding, ...]:
    """What these checks say of a run, worries first."""
    findings = [f for f in (check(run) for check in HEALTH) if f is not None]
    return tuple(sorted(findings, key=lambda f: f.severity == "fine"))
