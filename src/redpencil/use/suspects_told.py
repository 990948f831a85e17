"""What cross-fitting found, in words: on the screen, and as a finding of the doctor's."""

from redpencil.console import say, warn
from redpencil.doctor.findings import SHOWN_ROWS, Finding
from redpencil.doctor.fix import SUSPECT
from redpencil.types import Origin
from redpencil.use.suspects import Suspects

LOOK = (
    "look before you mend: a rule that the labels break always, or a kind of pair that the model "
    "does not understand, shows here as wrong, and a bias that all labels share shows not at all"
)


def print_suspects(found: Suspects, *, shown: int = 3) -> None:
    """What was found, and what it can and cannot tell."""
    say(f"suspects  {judged(found)}")
    if found.verdict.refusal is not None:
        warn(f"no label is called wrong: {found.verdict.refusal}")
        return
    say(f"          {flipped(found)}")
    say(f"          {named(found)}")
    if not found.mendable:
        return
    for row in found.rows()[:shown]:
        say(f"  {row['file']}, row {row['row']}: right with probability {row['probability']:.2f}")
        for name in ("prompt", "chosen", "rejected"):
            say(f"    {name:<9} {_excerpt(row[name])}")
    say(f"          {LOOK}")


def finding(found: Suspects) -> Finding:
    """The same for a diagnosis: a warning where labels are named, else a note."""
    rows = found.rows()
    refusal = found.verdict.refusal
    if refusal is not None:
        said = f"No label is called wrong: {refusal}."
    else:
        said = f"{_sentence(judged(found))} {_sentence(flipped(found))} {_sentence(named(found))}"
    example = f"chosen: {_excerpt(rows[0]['chosen'])}; " if rows else ""
    example += f"rejected: {_excerpt(rows[0]['rejected'])}" if rows else ""
    return Finding(
        key=SUSPECT,
        group="preference",
        severity="warning" if rows else "note",
        title="Labels that look flipped" if rows else "No label is called wrong",
        text=said,
        count=len(rows),
        of=len(found.pairs),
        rows=tuple(Origin(row["file"], row["row"]) for row in rows[:SHOWN_ROWS]),
        example=example,
        why=(
            "A reversed label teaches the opposite. This is a judgement by other pairs, not a fact."
        ),
        advice=f"{_sentence(LOOK)} Then --fix OUT.jsonl --suspects-as drop, flip or soften."
        if rows
        else "Nothing to do.",
    )


def judged(found: Suspects) -> str:
    """By what, and how well it agrees with the labels."""
    head, verdict = found.header, found.verdict
    low, high = (f"{x:.1%}" for x in verdict.interval)
    judge = "words" if head["model"] is None else f"words and hidden states of {head['model']}"
    return (
        f"{head['pairs']:,} pairs of {head['prompts']:,} prompts, judged by {judge}, each by a fit "
        f"to the other {head['folds'] - 1} of {head['folds']} folds: agreement with the labels "
        f"{verdict.accuracy:.1%} (95 % interval {low} to {high})"
    )


def flipped(found: Suspects) -> str:
    """How many labels look flipped; no number where there may be none."""
    verdict = found.verdict
    few, many = verdict.rate_interval
    if few <= 0:
        return (
            "labels that look flipped: cannot tell whether there are any (95 % interval "
            f"{few:.1%} to {many:.1%})"
        )
    return (
        f"labels that look flipped: about {verdict.rate:.1%} ({few:.1%} to {many:.1%}), "
        f"{found.header['expected_wrong']:,} pairs"
    )


def named(found: Suspects) -> str:
    """How many are named one by one."""
    count = found.header["suspects"]
    if not count:
        return "no pair is more likely wrong than right"
    pairs = "pair is" if count == 1 else "pairs are"
    return (
        f"{count:,} {pairs} more likely wrong than right, by this reckoning; of these about "
        f"{found.verdict.expected_precision:.0%} should be wrong, and the others right"
    )


def _sentence(said: str) -> str:
    return f"{said[0].upper()}{said[1:]}."


def _excerpt(text: str, longest: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[:longest]}..."
