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
SIDES = ("chosen", "rejected")


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
        for name in ("prompt", *SIDES):
            say(f"    {name:<9} {_excerpt(row[name])}")
    say(f"          {LOOK}")


def finding(found: Suspects) -> Finding:
    """The same for a diagnosis: a warning where labels are surely flipped, else a note."""
    rows = found.rows()
    refusal = found.verdict.refusal
    if refusal is not None:
        said = f"No label is called wrong: {refusal}."
    else:
        said = " ".join(_sentence(tell(found)) for tell in (judged, flipped, named))
    example = [f"{side}: {_excerpt(rows[0][side])}" for side in SIDES] if rows else []
    shown = [Origin(row["file"], row["row"]) for row in rows[:SHOWN_ROWS]]
    return Finding(
        key=SUSPECT,
        group="preference",
        severity="warning" if rows and _sure(found) else "note",
        title="Labels that look flipped" if rows else "No label is called wrong",
        text=f"{said} The most suspect come first." if len(rows) > 1 else said,
        count=len(rows),
        of=len(found.pairs),
        rows=tuple(sorted(shown, key=lambda origin: origin.file)),
        example="; ".join(example),
        why="A reversed label teaches the opposite. This is a judgement by other pairs, no fact.",
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
    few, many = (f"{x:.1%}" for x in verdict.rate_interval)
    if not _sure(found):
        return (
            "labels that look flipped: cannot tell whether there are any (95 % interval "
            f"{few} to {many})"
        )
    return (
        f"labels that look flipped: about {verdict.rate:.1%} ({few} to {many}), "
        f"{found.header['expected_wrong']:,} pairs"
    )


def named(found: Suspects) -> str:
    """How many are named one by one."""
    count = found.header["suspects"]
    if not count:
        return "no pair is more likely wrong than right"
    pairs = "pair" if count == 1 else "pairs"
    if not _sure(found):
        return f"if there are any, look at {count:,} {pairs} first"
    return (
        f"{count:,} {pairs} {'is' if count == 1 else 'are'} more likely wrong than right, by this "
        "reckoning; of these about "
        f"{found.verdict.expected_precision:.0%} should be wrong, and the others right"
    )


def _sure(found: Suspects) -> bool:
    """Whether some labels are flipped: the interval of their share is above 0."""
    return found.verdict.rate_interval[0] > 0


def _sentence(said: str) -> str:
    return f"{said[0].upper()}{said[1:]}."


def _excerpt(text: str, longest: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[:longest]}..."
