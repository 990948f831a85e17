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
from redpencil.report.health import displacement, large_kl, over_fitting, parting, saturation
from redpencil.report.reward_checks import calibrated, pays_for_length
from redpencil.report.rollouts import clipped, cut_off
from redpencil.report.rundata import RunData, difference, number, present
from redpencil.report.wording import count, nats, short

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
        "The same command goes on from the last checkpoint, or begins anew where there is none.",
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


def hardly_moved(run: RunData) -> Finding | None:
    # Where step 0 was not measured: a policy that is its reference has margins of 0.
    unknown = 0.0 if run.starts_at_reference else None
    began = {p.key: p.margin for p in run.before}
    moved = present([difference(p.margin, began.get(p.key, unknown)) for p in run.after])
    before, after = run.held_out("rewards/margins")
    logged = difference(after, unknown if before is None else before)
    size = mean([abs(m) for m in moved]) if moved else logged
    if size is None or abs(size) >= HARDLY_MOVED:
        return None
    return Finding(
        "hardly-moved",
        "worry",
        "The model has hardly moved",
        f"The margins moved by {nats(abs(size))} on average, in {count(run.steps, 'step')} "
        f"at a learning rate of {short(number(run.recipe, 'learning_rate'))}: next to no change.",
        "Raise the learning rate or train longer.",
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
