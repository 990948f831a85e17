"""What changed between two evaluations beyond chance: the held-out loss, and the order of pairs.

The pairs are the same at both, so a change is the mean over pairs of a difference, and its interval
is that of such a mean, prompts drawn at random.
"""

import math
from collections.abc import Callable

from redpencil.report.estimates import Mean, clustered_mean
from redpencil.report.rundata import RunData, number

NOTICEABLE = 0.02
"""Share of a loss by which it must change to be called another, where no interval is known."""


def order_change(run: RunData) -> Mean | None:
    """Of the share ordered correctly, from before training to now; None where either is unknown."""
    began = {p.key: p.correct for p in run.before}
    return clustered_mean(
        (p.prompt, p.correct - was)
        for p in run.after
        if p.correct is not None and (was := began.get(p.key)) is not None
    )


def loss_change(run: RunData, since: int = 0) -> Mean | None:
    """Of the held-out loss, from the evaluation at step `since` to the latest one; None where
    either is unknown. Where the pairs do not tell the interval, it is `NOTICEABLE`."""
    began, now = run.held_out("loss")
    if since:
        began = {int(row["step"]): number(row, "eval/loss") for row in run.evals}.get(since)
    if began is None or now is None:
        return None
    return Mean(now - began, _half_of_loss(run, since) or NOTICEABLE * abs(began))


def _half_of_loss(run: RunData, since: int) -> float | None:
    loss = _loss_of_margin(run)
    if loss is None:
        return None
    then = {p.key: p.margin for p in run.before} if since == 0 else {}
    for key, history in run.histories.items():
        then[key] = dict(history.margins).get(since, then.get(key))
    found = clustered_mean(
        (p.prompt, loss(p.margin) - loss(was))
        for p in run.after
        if p.margin is not None and (was := then.get(p.key)) is not None
    )
    return found.half if found else None


def _loss_of_margin(run: RunData) -> Callable[[float], float] | None:
    """-log sigma(margin), where that is the loss of a pair."""
    recipe = run.recipe
    plain = not number(recipe, "label_smoothing") and recipe.get("loss", "dpo") == "dpo"
    if not plain or run.stage not in ("dpo", "reward"):
        return None
    return lambda margin: max(-margin, 0.0) + math.log1p(math.exp(-abs(margin)))
