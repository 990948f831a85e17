"""What a report says of an RL run: did the reward rise, at what KL, and what to worry about."""

import math
from typing import Literal

from redpencil.intervals import Z95, wilson_interval
from redpencil.report.estimates import mean
from redpencil.report.findings import Finding
from redpencil.report.rundata import RunData, mapping, number, present
from redpencil.report.wording import percent, plain, signed

CUT_OFF = 0.2
"""Share of held-out answers without an end above which the room for them is too small."""
CLIPPED = 0.3
"""Share of tokens that the surrogate clips above which steps are too large for it."""


def on_rollouts(run: RunData) -> tuple[Literal["good", "unclear", "bad"], str, list[str]]:
    """Tone, headline and sentences: the reward of held-out prompts before and now."""
    before, after = run.held_out("reward")
    if before is None or after is None:
        if not run.train:
            return "unclear", "Nothing to judge yet", ["No training step has been logged."]
        text = "No held-out prompt was answered before and after training, so there is no verdict."
        return "unclear", "Too early to say" if not run.finished else "Not measured", [text]
    change, error = after - before, _error(run)
    tone: Literal["good", "unclear", "bad"] = "unclear"
    if error is None:
        moved, within = False, "; its error is not known before the run ends"
        headline, verb = "Too early to say" if not run.finished else "Not measured", "went"
    else:
        moved, within = abs(change) > error, f" ± {plain(error)}"
        headline, verb = "No clear improvement", "did not clearly change:"
    if moved and change > 0:
        tone, verb = "good", "rose"
        headline = "It worked" if run.finished else "It is working so far"
    elif moved:
        tone, headline, verb = "bad", "The reward fell", "fell"
    sentences = [
        f"The reward of answers to held-out prompts {verb} from {plain(before)} to {plain(after)} "
        f"(change {signed(change)}{within})."
    ]
    _, objective = run.held_out("objective")
    beta = number(run.recipe, "beta")
    if objective is not None and beta is not None:
        sentences.append(
            f"Less β = {beta:g} times the KL, which is what is maximised, it is {plain(objective)}."
        )
    return tone, headline, sentences


def _error(run: RunData) -> float | None:
    """Half the 95 % interval of the change, as far as the answers' sampling goes."""
    measured = mapping(run.summary or {}, "reward")
    errors = [number(mapping(measured, when), "stderr") for when in ("before", "after")]
    known = present(errors)
    return Z95 * math.hypot(*known) if len(known) == len(errors) else None


def cut_off(run: RunData) -> Finding | None:
    """Answers that do not end within their room: their reward is that of half an answer."""
    finished = run.held_out("finished")[1]
    if finished is None:
        return None
    answers = min(
        number(run.data, "eval_prompts") or math.inf,
        number(run.recipe, "sample_prompts") or math.inf,
    )
    of = f"the {answers:,.0f}" if math.isfinite(answers) else "the"
    facts = f"{percent(1 - finished)} of {of} answers to held-out prompts have no end"
    if 1 - finished <= CUT_OFF:
        return Finding("cut-off", "fine", "Answers end", f"{facts}.")
    if math.isfinite(answers) and wilson_interval(1 - finished, answers)[0] <= CUT_OFF:
        text = f"{facts}: too few to tell whether it is more than {percent(CUT_OFF)}."
        return Finding("cut-off", "fine", "Whether answers end", text)
    return Finding(
        "cut-off",
        "worry",
        "Many answers are cut off",
        f"{facts} within {number(run.recipe, 'max_new_tokens') or 0:.0f} tokens.",
        "Raise --max-new-tokens, or have the reward ask for shorter answers.",
    )


def clipped(run: RunData) -> Finding | None:
    """Steps so large that the surrogate no longer follows them."""
    shares = present([number(row, "policy/clipped") for row in run.train])
    if not shares:
        return None
    share = mean(shares[-max(5, len(shares) // 10) :])
    facts = f"lately {percent(share)} of the tokens of a step lie beyond the clip"
    if share <= CLIPPED:
        return Finding("clipped", "fine", "Size of the steps", f"{facts.capitalize()}.")
    return Finding(
        "clipped",
        "worry",
        "Steps are too large",
        f"{facts.capitalize()}: the rollouts no longer say what such a policy would earn.",
        "Lower --learning-rate or --passes.",
    )
