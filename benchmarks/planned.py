"""What `redpencil plan` predicts, and what then happens: seconds of a step, memory.

    python -m benchmarks.planned [--cases hh,hh_lora] [--steps 12] [--markdown FILE]

For each case `redpencil plan` is asked, and then the same recipe is run for a few steps, both as a
user would, in processes of their own. A step's seconds are compared at equal tokens: the run's
median seconds a token times the tokens that the plan expects in a step. Its memory is the largest
resident size of the run's process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, MAX_LENGTH, Shape, build
from benchmarks.compare import ROOT, BenchmarkError, data_folder, environment, machine, one_of
from benchmarks.table import markdown, plain

PAIRED_PROMPTS = 400
"""Enough for a plan to see what steps look like."""

EXTRA: Mapping[str, tuple[str, ...]] = {
    "hh_lora": ("--lora-rank", "16"),
    "recomputed": ("--activation-checkpointing", "on"),
    "large_steps": ("--batch-size", "32"),
}
"""Options of a case beside its data and model; those without data of their own are HH's."""

NAMES = (*CASES, *(name for name in EXTRA if name not in CASES))

HEADER = (
    "case", "step planned, s", "measured, s", "measured / planned", "tensors, MB",
    "process planned, MB", "measured, MB", "measured / planned",
)  # fmt: skip


SAID = "; from benchmarks.protocol import peak_rss; print(peak_rss(), file=sys.stderr)"
"""A process tells its peak itself: `ru_maxrss` would hold its parent's, too."""
CALL = "import sys; from redpencil.cli.main import main; code = main()" + SAID + "; sys.exit(code)"


def ask(command: str, job: Mapping[str, Any], name: str, scratch: Path, *flags: str) -> int:
    """Run one redpencil command; its largest resident size in bytes. Raises BenchmarkError."""
    options = {
        "--model": job["model"],
        "--data": job["data"],
        "--max-length": MAX_LENGTH,
        "--batch-size": job["prompts"],
        "--eval-fraction": 0,
        "--learning-rate": job["learning_rate"],
    }
    typed = [str(word) for option in options.items() for word in option]
    return resident([CALL, command, *typed, *EXTRA.get(name, ()), *flags], scratch / command)


def resident(words: Sequence[str], log: Path) -> int:
    """Largest resident size, in bytes, of a Python that runs `-c words`; it writes `LOG.out` and
    `LOG.err`. Raises BenchmarkError."""
    with (
        log.with_suffix(".out").open("w", encoding="utf-8") as out,
        log.with_suffix(".err").open("w", encoding="utf-8") as err,
    ):
        code = subprocess.call(
            [sys.executable, "-c", *words],
            cwd=ROOT, env=environment(log.parent), stdout=out, stderr=err,
        )  # fmt: skip
    said = log.with_suffix(".err").read_text(encoding="utf-8", errors="replace")
    if code:
        raise BenchmarkError(f"{log.name} ended with {code}; it said last:\n{said[-2000:]}")
    return int(said.split()[-1])


def measure(
    name: str, steps: int, folder: Path, data: Path | None, shape: Shape | None = None
) -> tuple[str, ...]:
    """A row under HEADER. shape: of the decoder; by default that of the other benchmarks."""
    case = CASES.get(name, CASES["hh"])
    job = json.loads(build(case, PAIRED_PROMPTS // case.prompts, folder, data, shape).read_text())
    ask("plan", job, name, folder, "--json")
    planned = json.loads((folder / "plan.out").read_text(encoding="utf-8"))
    most = ask("dpo", job, name, folder, "--out", job["out"], "--max-steps", str(steps))
    lines = (Path(job["out"]) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [row["tokens_per_second"] for row in map(json.loads, lines) if "seconds" in row]
    real = planned["steps"]["tokens_a_step"] / statistics.median(rates[2:])
    step, memory = planned["seconds"]["step"], planned["memory"]
    return (
        name, f"{step:.3f}", f"{real:.3f}", f"{real / step:.2f}", f"{memory['peak'] / 1e6:,.0f}",
        f"{memory['process'] / 1e6:,.0f}", f"{most / 1e6:,.0f}", f"{most / memory['process']:.2f}",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--cases", default=list(NAMES), type=one_of(dict.fromkeys(NAMES)), metavar="A,B",
        help=", ".join(NAMES),
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=12, help="steps of each run (12)")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    args = parser.parse_args(argv)
    if args.steps < 4:
        parser.error("--steps must be at least 4: the first two are not counted")
    table: list[tuple[str, ...]] = []
    print(machine())
    for name in args.cases:
        if CASES.get(name, CASES["hh"]).source == "hh" and data_folder() is None:
            print(f"{name}: skipped, no data folder (set REDPENCIL_DATA)")
            continue
        with tempfile.TemporaryDirectory(prefix="redpencil-planned-") as scratch:
            try:
                table.append(measure(name, args.steps, Path(scratch) / name, data_folder()))
            except (BenchmarkError, OSError, ValueError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
        print(plain(HEADER, table[-1:]), flush=True)
    if args.markdown and table:
        text = f"{machine()}\n\n{markdown(HEADER, table)}\n"
        args.markdown.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
