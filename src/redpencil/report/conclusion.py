"""How a run ends in the terminal: the verdict of its report, its worries, and its best step."""

from collections.abc import Iterator
from pathlib import Path

from redpencil.report.change import loss_change
from redpencil.report.rundata import RunData, number, read_run
from redpencil.report.verdict import judge
from redpencil.report.wording import NBSP, plain, short


def conclusion(folder: Path) -> Iterator[tuple[str, str]]:
    """(label, sentence) of a run that has ended; the label is "" where it is the one before.

    Raises RunFolderError where the folder is no run.
    """
    run = read_run(folder)
    verdict = judge(run)
    for label, text in _lines(run, folder, verdict.headline, verdict.sentences):
        yield label, text.replace(NBSP, " ")
    label = "worry"
    for found in verdict.worries:
        text = f"{found.title}. {found.text} {found.advice}".rstrip()
        yield label, text.replace(NBSP, " ")
        label = ""


def _lines(
    run: RunData, folder: Path, headline: str, sentences: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    first, *more = sentences or ("",)
    yield "result", f"{headline}. {first}".rstrip()
    yield from (("", sentence) for sentence in more)
    if said := best_step(run, folder):
        yield "best", said


def best_step(run: RunData, folder: Path) -> str:
    """Where another step than the last was the best by what was held out: which, by how much, and
    how to have its model; "" where it was the last."""
    best = run.best_step
    if best is None or best == run.steps:
        return ""
    name, say = ("objective", plain) if run.is_rl else ("loss", short)
    then = next((number(r, f"eval/{name}") for r in run.evals if r["step"] == best), None)
    now = run.held_out(name)[1]
    numbers = "" if then is None or now is None else f" ({say(then)}, and {say(now)} at the end)"
    change = None if run.is_rl else loss_change(run, best)
    chance = ", but chance could make the difference" if change and not change.above(0.0) else ""
    lowest = "highest" if run.is_rl else "lowest"
    if best == 0:
        return (
            f"the held-out {name} was {lowest} before training, at step 0{numbers}{chance}: by "
            "that measure no step is better than the model it began from"
        )
    kept = (folder / "checkpoints" / f"step-{best}").is_dir()
    how = f"; redpencil export {folder} OUT --step {best} writes that model" if kept else ""
    return f"step {best:,}, where the held-out {name} was {lowest}{numbers}{chance}{how}"
