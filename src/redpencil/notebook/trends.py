"""How all pairs of a split moved together, evaluation by evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from redpencil.notebook.history import FIRST_STEP, Histories, Notebook

SPENT = 0.05
"""A pair with a smaller weight is hardly pressed any more."""

WINDOWS = 10
"""Over how many windows training pairs are averaged where nothing is held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Means over the pairs measured at an evaluation, or, of training pairs, since the one before.

    chosen, rejected: change of a response's log-probability, in nats, since before training where
    the pair was measured then, else from the reference (None for a reward model). right: share of
    pairs with a positive margin, ties one half. spent: share with a weight below `SPENT`.
    """

    step: int
    pairs: int
    chosen: float | None
    rejected: float | None
    margin: float
    right: float
    spent: float


Trend = tuple[Moment, ...]
"""Moments by step, those before the first update left out."""


def trends(notebook: Notebook) -> dict[str, Trend]:
    """The trend of each split. Training pairs are averaged over what was measured since the
    evaluation before, so that both are of the same steps."""
    held_out = notebook.sides.get("eval")
    found: dict[str, Trend] = {}
    evaluated = np.empty(0, dtype=np.int64)
    if held_out is not None:
        evaluated = np.unique(held_out.rows.step)
        evaluated = evaluated[evaluated >= FIRST_STEP["eval"]]
        found["eval"] = _trend(held_out, evaluated)
    trained = notebook.sides.get("train")
    if trained is not None:
        last = int(trained.rows.step.max())
        ends = evaluated if len(evaluated) else np.linspace(0, last, WINDOWS + 1)[1:].astype(int)
        found["train"] = _trend(trained, np.unique(ends))
    return found


def _trend(histories: Histories, ends: np.ndarray) -> Trend:
    """Moments of the measurements with a step in (end before, end]."""
    rows = histories.rows
    counted = rows.step >= FIRST_STEP[histories.split]
    window = np.searchsorted(ends, rows.step)
    columns = {**rows.numbers, **_starts(histories)}
    moments = []
    for at, end in enumerate(ends.tolist()):
        inside = np.flatnonzero((window == at) & counted)
        if len(inside):
            numbers = {name: values[inside] for name, values in columns.items()}
            moments.append(_moment(int(end), numbers))
    return tuple(moments)


def _starts(histories: Histories) -> dict[str, np.ndarray]:
    """(R,) log-probabilities that changes are counted from: the pair's own at step 0, for a policy
    need not begin as its reference; the reference's where step 0 was not measured."""
    rows = histories.rows
    places = np.arange(len(rows))
    begins = np.r_[True, rows.pair[1:] != rows.pair[:-1]]  # rows lie by pair and step
    first = np.maximum.accumulate(np.where(begins, places, 0))
    return {
        f"start_{side}": np.where(
            rows.step[first] == 0,
            rows.numbers[f"logp_{side}"][first],
            rows.numbers[f"ref_logp_{side}"],
        )
        for side in ("chosen", "rejected")
    }


def _moment(step: int, n: Mapping[str, np.ndarray]) -> Moment:
    margin = n["margin"].astype(np.float64)
    return Moment(
        step=step,
        pairs=len(margin),
        chosen=_known(n["logp_chosen"].astype(np.float64) - n["start_chosen"]),
        rejected=_known(n["logp_rejected"].astype(np.float64) - n["start_rejected"]),
        margin=float(margin.mean()),
        right=float(((margin > 0) + (margin == 0) / 2).mean()),
        spent=float((n["weight"] < SPENT).mean()),
    )


def _known(values: np.ndarray) -> float | None:
    mean = float(values.mean())
    return mean if np.isfinite(mean) else None
