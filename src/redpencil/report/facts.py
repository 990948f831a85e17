"""Facts of the data and the run as rows of (name, value) for the page."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from redpencil.report.estimates import mean
from redpencil.report.rundata import RunData, mapping, number, present
from redpencil.report.wording import count, duration, nats, percent, short

Facts = list[tuple[str, str]]

_HOW_MANY_EXAMPLES = 3


def progress(run: RunData, watched: bool) -> dict[str, Any] | None:
    """How far an unfinished run is: a text, and the share where the end is known. Of a finished
    one, that it is, to those who watch it."""
    if run.finished:
        text = f"finished after {count(run.steps, 'step')}"
        return {"text": text, "share": None} if watched else None
    planned = run.planned_steps
    if not planned:
        return {"text": f"training: step {run.steps:,}", "share": None}
    share = min(1.0, run.steps / planned)
    return {"text": f"training: step {run.steps:,} of {planned:,}", "share": share}


def progress_of_all(runs: Sequence[RunData]) -> dict[str, Any] | None:
    """Of several runs side by side: how many still train, and how far those are."""
    open_runs = [run for run in runs if not run.finished]
    if not open_runs:
        return None
    parts = [f"{run.name} at step {run.steps:,}" for run in open_runs]
    parts = [
        f"{part} of {run.planned_steps:,}" if run.planned_steps else part
        for part, run in zip(parts, open_runs, strict=True)
    ]
    return {"text": f"training: {', '.join(parts)}", "share": None}


def data_facts(run: RunData) -> Facts:
    """What was read and what it became."""
    data, facts = run.data, []
    if data.get("source"):
        facts.append(("Read from", str(data["source"])))
    if data.get("shape"):
        facts.append(("Shape of the rows", str(data["shape"])))
    used = number(data, "rows_used")
    read = number(data, "rows_read")
    if used is None and read is not None:  # as an older redpencil wrote it
        used = read - sum(run.set_aside.values())
    for name, n in (("Rows read", read), ("Rows used", used)):
        if n is not None:
            facts.append((name, f"{n:,.0f}"))
    for side, name in (("train", "Training"), ("eval", "Held out")):
        parts = [
            count(n, thing)
            for thing in ("prompt", "response", "pair")
            if (n := number(data, f"{side}_{thing}s"))
        ]
        if parts:
            facts.append((name, ", ".join(parts)))
    padded, distinct = number(data, "tokens_padded"), number(data, "tokens_distinct")
    if padded and distinct:
        saved = percent(1 - distinct / padded)
        text = f"{saved} ({distinct:,.0f} distinct tokens where padding would take {padded:,.0f})"
        facts.append(("Saved by sharing", text))
    if number(data, "truncated_prompts"):
        facts.append(("Prompts shortened", f"{number(data, 'truncated_prompts'):,.0f}"))
    return facts


def set_aside(run: RunData) -> list[dict[str, Any]]:
    """Reasons for which rows were set aside, the commonest first, with where they stand."""
    return [
        {
            "reason": reason,
            "count": f"{n:,}",
            "where": ", ".join(
                f"{row.get('file', '')}:{row.get('row', '')}"
                for row in [r for r in run.dropped if r.get("reason") == reason][
                    :_HOW_MANY_EXAMPLES
                ]
            ),
        }
        for reason, n in sorted(run.set_aside.items(), key=lambda item: -item[1])
    ]


def run_facts(run: RunData) -> Facts:
    """What was trained, on what, for how long."""
    facts: Facts = []
    environment, recipe = run.environment, run.recipe
    for name, key in (("Stage", "stage"), ("Objective", "loss"), ("Model", "model")):
        if recipe.get(key):
            facts.append((name, str(recipe[key])))
    parameters = number(environment, "parameters")
    if parameters:
        trained = number(environment, "trainable_parameters")
        share = f", {trained:,.0f} trained" if trained and trained != parameters else ""
        facts.append(("Parameters", f"{parameters:,.0f}{share}"))
    planned = f" of {run.planned_steps:,}" if run.planned_steps and not run.finished else ""
    facts.append(("Steps", f"{run.steps:,}{planned}"))
    centre = mapping(run.summary or {}, "centre")
    if number(centre, "mean") is not None:
        source = f"{number(centre, 'responses') or 0:,.0f} {centre.get('source', 'responses')}"
        text = f"0 over {source}, where it was {nats(number(centre, 'mean'))}"
        facts.append(("Mean reward", f"{text} (deviation {short(number(centre, 'std'))})"))
    seconds = number(run.summary or {}, "seconds")
    if seconds is None:
        seconds = sum(present([number(row, "seconds") for row in run.train])) or None
    if seconds:
        facts.append(("Time in steps", duration(seconds)))
    speeds = present([number(row, "tokens_per_second") for row in run.train])
    if speeds:
        facts.append(("Speed", f"{short(mean(speeds))} tokens a second"))
    for name, key in (("Started", "started"), ("Device", "device"), ("Precision", "dtype")):
        if environment.get(key):
            facts.append((name, str(environment[key])))
    versions = [
        f"{name} {environment[name]}"
        for name in ("redpencil", "torch", "transformers", "python")
        if environment.get(name)
    ]
    if versions:
        facts.append(("Versions", ", ".join(versions)))
    if environment.get("platform"):
        facts.append(("Platform", str(environment["platform"])))
    return facts


def recipe_facts(run: RunData) -> Facts:
    return [(name, "–" if value is None else _plain(value)) for name, value in run.recipe.items()]


def reproduce(run: RunData) -> list[str]:
    """Lines for a shell that install the same versions and repeat the run."""
    lines = []
    if run.environment.get("redpencil"):
        lines.append(f"# with redpencil {run.environment['redpencil']}")
    versions = {n: run.environment.get(n) for n in ("torch", "transformers")}
    # "2.13.0+cpu" names a build, not a version that an index has.
    pins = [shlex.quote(f"{n}=={str(v).partition('+')[0]}") for n, v in versions.items() if v]
    if pins:
        lines.append("pip install " + " ".join(pins))
    if run.environment.get("command"):
        lines.append(f"# it was begun by: {run.environment['command']}")
    out = run.recipe.get("out")
    if out:
        again = ["redpencil", "run", f"{out}/recipe.yaml", f"out={out}-again"]
        lines.append(shlex.join(again))
    return lines


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items()) or "–"
    return str(value)
