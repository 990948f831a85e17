"""`redpencil frontier`: the paper's Figure 2 (left) on the review world, with the exact optimum.

Every method over its own range of strength and several seeds, true reward against KL(pi || pi_ref);
above them the optimum pi_ref exp(r / beta) / Z [Eq. 4], which can be sampled here because the
reward is known. A killed command goes on: finished jobs are not done again.
"""

import csv
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from redpencil.console import say
from redpencil.errors import RecipeError, RedpencilError
from redpencil.evals.frontier import ReferenceSamples
from redpencil.evals.points import policy_point
from redpencil.folders.run import RunFolder
from redpencil.frontier.folder import FrontierFolder
from redpencil.frontier.plan import DEFAULT_METHODS, METHODS, Job, optimum_jobs, plan
from redpencil.frontier.points import (
    Dot,
    best_of_n_dots,
    choose_proposals,
    measured,
    reference_samples,
    trained_dots,
    with_fractions,
)
from redpencil.frontier.pool import Pool
from redpencil.frontier.table import Mean, comparison, line, means, optimum_curve
from redpencil.locks import alone
from redpencil.places import whole_file
from redpencil.report.frontier_page import FRONTIER, build_frontier_page
from redpencil.report.wording import fixed
from redpencil.world.settings import FrontierSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line said."""

    methods: Sequence[str]
    seeds: int
    jobs: int | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise RecipeError(f"--seeds must be at least 1, it is {self.seeds}")
        if self.jobs is not None and self.jobs < 1:
            raise RecipeError(f"--jobs must be at least 1, it is {self.jobs}")


def frontier(out: Path, asked: Asked, settings: FrontierSettings | None = None) -> Path:
    """Run what is missing under `out` and return its page, `frontier.html`.

    Raises UserError, and RedpencilError where a job failed: the page then shows the others.
    """
    with alone(out):
        return _frontier(out, asked, settings or FrontierSettings())


def _frontier(out: Path, asked: Asked, settings: FrontierSettings) -> Path:
    folder = FrontierFolder.at(out, settings)
    planned = plan(settings, asked.methods, asked.seeds)
    began = time.perf_counter()
    processes = asked.jobs or _cores()
    say(f"frontier  {len(planned)} jobs in {processes} processes; what they say is in {out}/logs")
    with Pool(folder, settings, processes) as pool:
        pool.run(planned, lambda job, seconds: _told(folder, job, seconds))
        _refuse_without(pool, "samples")
        proposals = choose_proposals(folder, settings.proposals)
        say(f"optimum   sampled from {', '.join(['the reference', *proposals])}")
        pool.run(optimum_jobs(proposals), lambda job, seconds: _told(folder, job, seconds))
        _refuse_without(pool, "optimum")
        failures = dict(pool.failures)
    page = _conclude(folder, settings, asked, failures)
    say(f"page      {page}   ({time.perf_counter() - began:.0f} s)")
    if failures:
        raise RedpencilError(
            f"{len(failures)} jobs failed ({', '.join(failures)}); the page shows the others, and "
            "the same command tries these again"
        )
    return page


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _refuse_without(pool: Pool, kind: str) -> None:
    lost = [name for name in pool.failures if name.startswith(kind)]
    if lost:
        raise RedpencilError(
            f"{lost[0]} failed: {pool.failures[lost[0]]}; without it there is nothing to compare "
            "with; the same command tries again"
        )


def _told(folder: FrontierFolder, job: Job, seconds: float) -> str:
    """One line on a finished job."""
    line = f"{job.name:<20} {seconds:>5.0f} s"
    result = folder.result(job.name)
    if job.kind != "policy" or result is None:
        return line
    last = result["points"][-1]
    point = policy_point(*measured(last))
    return (
        f"{line}   true reward {fixed(point.reward.value, 2, sign=True)} "
        f"± {point.reward.within:.2f}   "
        f"KL {point.kl.value:.2f} ± {point.kl.within:.2f}"
    )


def _conclude(
    folder: FrontierFolder,
    settings: FrontierSettings,
    asked: Asked,
    failures: Mapping[str, str],
) -> Path:
    """Points, table and page from the jobs' results."""
    reference = reference_samples(folder, settings)
    found = trained_dots(folder) + best_of_n_dots(folder, settings, asked.methods)
    dots = with_fractions(found, reference)
    grouped = means(dots)
    content = _content(settings, reference, dots, grouped, failures)
    content["command"] = _command(folder.path, asked)
    folder.write(FRONTIER, content)
    RunFolder(folder.path).write_rows("points.jsonl", (dot.row() for dot in dots))
    _write_csv(folder.path / "frontier.csv", grouped)
    _print_comparison(content["comparison"])
    return build_frontier_page(folder.path)


def _content(
    settings: FrontierSettings,
    reference: ReferenceSamples,
    dots: Sequence[Dot],
    grouped: Sequence[Mean],
    failures: Mapping[str, str],
) -> dict[str, Any]:
    """What the page needs, for `frontier.json`."""
    start = float(reference.mean_P.mean())
    farthest = max([1.0, *(dot.kl for dot in dots)])
    names = list(dict.fromkeys(mean.method for mean in grouped))
    return {
        "settings": asdict(settings),
        "methods": [
            {
                "name": name,
                "label": METHODS[name].label,
                "symbol": METHODS[name].symbol,
                "line": line([m for m in grouped if m.method == name], start),
            }
            for name in names
        ],
        "seeds": len({dot.seed for dot in dots}),
        "reference": {"reward": start, "completions": reference.rewards.shape[1]},
        "optimum": optimum_curve(reference, 1.05 * farthest),
        "means": [asdict(mean) for mean in grouped],
        "points": [dot.row() for dot in dots],
        "comparison": comparison(dots, reference),
        "failures": dict(failures),
    }


def _command(out: Path, asked: Asked) -> str:
    """What makes this folder anew."""
    words = ["redpencil", "frontier", "--out", str(out), "--seeds", str(asked.seeds)]
    if tuple(asked.methods) != DEFAULT_METHODS:
        words += ["--methods", ",".join(asked.methods)]
    return shlex.join(words)


def _write_csv(path: Path, grouped: Sequence[Mean]) -> None:
    rows = [asdict(mean) for mean in grouped]  # none, where every method failed
    with whole_file(path) as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Mean)])
        writer.writeheader()
        writer.writerows(rows)


def _print_comparison(rows: Sequence[Mapping[str, Any]]) -> None:
    levels = [cell["kl"] for cell in rows[0]["at"] if cell]
    say("")
    say("True reward at a KL of" + "".join(f"{kl:>15g}" for kl in levels), style="bold")
    for row in rows:
        label = "the exact optimum" if row["method"] == "optimum" else METHODS[row["method"]].label
        cells = row["at"][: len(levels)]
        shown = (
            f"{fixed(c['reward'], 2, sign=True)} ({c['share']:4.0%})" if c else "–" for c in cells
        )
        say(f"  {label:<26}" + "".join(f"{text:>15}" for text in shown))
