"""Checks of what the run was fed and what it answers: enough pairs, lengths, rows set aside."""

from redpencil.intervals import Z95
from redpencil.report.estimates import clustered_share, mean, mean_and_error
from redpencil.report.findings import Finding
from redpencil.report.rundata import RunData, number, present
from redpencil.report.wording import count, percent, percent_range

FEW_PAIRS = 100
SET_ASIDE_SHARE = 0.1
LONGER_CHOSEN = 0.6
"""Share of pairs in which one and the same length wins (longer, or shorter) from which on it may be
learned as a shortcut."""


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
        f"{policy:,.0f} characters on average against the reference's {reference:,.0f} "
        f"({count(len(both), 'sample')})"
    )
    ratio = policy / reference
    if (ratio > 1.5 or ratio < 1 / 1.5) and abs(change) > Z95 * error:
        return Finding(
            "length-drift",
            "worry",
            f"Answers became much {'longer' if ratio > 1 else 'shorter'}",
            f"The policy's samples have {facts}.",
            "Check whether length is what the labels reward (see below); balance the pairs by "
            f"length, or {run.to_stay_close}.",
        )
    return Finding("length-drift", "fine", "Length of the answers", f"Samples have {facts}.")


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
    long = share.value > 0.5
    word, other = ("longer", "shorter") if long else ("shorter", "longer")
    wins = share.value if long else 1 - share.value
    low, high = (share.low, share.high) if long else (1 - share.high, 1 - share.low)
    facts = (
        f"the {word} answer is the chosen one in {percent(wins)} of held-out pairs of unequal "
        f"length (interval {percent_range(low, high)})"
    )
    if wins <= LONGER_CHOSEN or low <= 0.5:
        return Finding("longer-chosen", "fine", "Length in the labels", f"There {facts}.")
    by_length = []
    for longer in (float(long), float(not long)):
        right = present([p.correct for p, was in unequal if was == longer])
        by_length.append(percent(mean(right)) if right else "–")
    return Finding(
        "longer-chosen",
        "worry",
        f"{word.capitalize()} answers are preferred in the data",
        f"In these labels {facts}. The model orders {by_length[0]} of those correctly, and "
        f"{by_length[1]} of the pairs where the {other} one is better.",
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
