"""Checks of a reward model: is it as sure as it is right, and does it pay for length?"""

import math

from redpencil.intervals import Z95
from redpencil.report.findings import Finding
from redpencil.report.points import calibration_bins, responses
from redpencil.report.rundata import RunData, mapping, number
from redpencil.report.wording import nats, percent

MISCALIBRATED = 0.1
PAYS_FOR_LENGTH = 0.5
FEWEST_ANSWERS = 3


def calibrated(run: RunData) -> Finding | None:
    """The gap between predicted and observed preference."""
    error = number(mapping(run.summary or {}, "calibration"), "expected_error")
    rows = calibration_bins(run)
    if error is None or not rows:
        return None
    pairs = sum(number(b, "pairs") or 0.0 for b in rows)
    gap = sum(
        (number(b, "pairs") or 0.0)
        * ((number(b, "predicted") or 0.0) - (number(b, "observed") or 0.0))
        for b in rows
    )
    facts = f"its certainty misses the observed share by {percent(error)} on average"
    # Bins of few pairs miss by chance alone: certainty must be off on the whole, beyond that.
    beyond_chance = abs(gap) / pairs > Z95 / 2 / pairs**0.5
    if error <= MISCALIBRATED or not beyond_chance:
        return Finding("calibration", "fine", "Calibration", f"On held-out pairs {facts}.")
    over = gap > 0
    return Finding(
        "calibration",
        "worry",
        "It is surer than it is right" if over else "It is less sure than it could be",
        f"On held-out pairs {facts}: the rewards are {'too far apart' if over else 'too close'}.",
        "Fewer epochs, or --label-smoothing, bring them closer together."
        if over
        else "Train longer, or raise the learning rate.",
    )


def pays_for_length(run: RunData) -> Finding | None:
    """Correlation of rewards with lengths."""
    correlation = number(run.summary or {}, "length_correlation")
    if correlation is None:
        return None
    facts = f"the correlation of reward and length is {nats(correlation, 2)} on held-out answers"
    answers = number(run.data, "eval_responses") or len(responses(run))
    if answers and answers <= FEWEST_ANSWERS:
        text = f"Here {facts}, but {answers:.0f} of them tell next to nothing."
        return Finding("reward-length", "fine", "Reward and length", text)
    # Fisher's z: beyond what as many unrelated numbers come to by chance.
    chance = math.tanh(Z95 / math.sqrt(answers - 3)) if answers else 0.0
    if abs(correlation) <= max(PAYS_FOR_LENGTH, chance):
        return Finding("reward-length", "fine", "Reward and length", f"Here {facts}.")
    word = "long" if correlation > 0 else "short"
    return Finding(
        "reward-length",
        "worry",
        f"It pays for {word} answers",
        f"Here {facts}. A policy trained on this reward would learn to write {word} answers.",
        "See whether the labels say the same; balance the pairs by length if they should not.",
    )
