"""`make bench`: redpencil and TRL 1.16 side by side, a step of each in turn.

    python -m benchmarks.compare [--cases hh,k4] [--rounds 7] [--contestants redpencil,trl]
                                 [--markdown FILE]

Same model folder, same pairs in the same order, same loss (DPO, beta 0.1), float32, AdamW at 1e-5,
gradients clipped at 1. Each contestant is a process that waits while another computes. Before
anything is timed the first steps must agree in tokens, loss and gradient norm. A step's time holds
everything between two steps: drawing the batch, forward, backward, update, metrics.

The real pairs are read from ../shared/data or $REDPENCIL_DATA; without them their cases are
skipped. TRL runs in .bench-venv, or under the Python that $REDPENCIL_BENCH_PYTHON names.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.cases import CASES, Case, Shape, build
from benchmarks.table import HEADER, Measurement, Step, markdown, plain, rows

ROOT = Path(__file__).resolve().parent.parent
COMPARED_STEPS = 2
"""The first loss is ln 2 for whoever has policy and reference right; the second also needs the
first update to be the same."""
TOLERANCE = {"tokens": 0.0, "loss": 1e-4, "grad_norm": 1e-3}
"""Relative, for the first steps of two contestants."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """What runs, under which Python (ours or the one with TRL), with which flags."""

    what: str
    module: str = "benchmarks.worker_trl"
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


CONTESTANTS = {
    "redpencil": Contestant("redpencil dpo with its defaults", "benchmarks.worker_redpencil"),
    "trl": Contestant("TRL as installed: its defaults in float32"),
    "trl-tuned": Contestant(
        "TRL with precomputed reference, no recomputation, oneDNN's matrix product",
        flags=("--tuned", "--onednn"),
    ),
    "trl-tuned-default": Contestant(
        "TRL with precomputed reference, no recomputation, torch's default matrix product",
        flags=("--tuned",),
    ),
    "trl-patched": Contestant(
        "TRL tuned, patched to project response positions only, with redpencil's malloc settings",
        flags=("--tuned", "--onednn", "--head"),
        environment={"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "2147483647"},
    ),
}


USUAL = [name for name in CONTESTANTS if name != "trl-tuned-default"]
"""All at once must fit the memory: at vocabulary 152 k these four hold 23 GB."""


class BenchmarkError(Exception):
    """Nothing can be timed; the message says why."""


class Worker:
    """A contestant's process. Raises BenchmarkError where it stops by itself."""

    def __init__(self, name: str, job: Path) -> None:
        contestant = CONTESTANTS[name]
        self.name = name
        self._log = job.with_name(f"{name}.log")
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [python_of(name), "-m", contestant.module, str(job), *contestant.flags],
                cwd=ROOT,
                env=environment(job.parent / name) | dict(contestant.environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.setup_seconds: float = self._answer()["setup_seconds"]

    def step(self) -> Step:
        self._say("step")
        return Step(**self._answer())

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise BenchmarkError(f"{self.name} stopped by itself; the end of its log:\n{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is None:
            self._say("quit")
        else:
            self._process.kill()  # it has nothing to save, and might answer gentler signals later
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()


def python_of(name: str) -> str:
    """The interpreter of a contestant. Raises BenchmarkError where TRL's is not there."""
    if name == "redpencil":
        return sys.executable
    named = os.environ.get("REDPENCIL_BENCH_PYTHON")
    path = Path(named) if named else ROOT / ".bench-venv" / "bin" / "python"
    if not path.is_file():
        raise BenchmarkError(
            f"no Python with TRL at {path}; `make bench` sets one up, or name one by "
            "REDPENCIL_BENCH_PYTHON"
        )
    return str(path)


def environment(scratch: Path) -> dict[str, str]:
    """This process's environment, with nothing cached from earlier runs and no network."""
    return os.environ | {
        "HF_HOME": str(scratch / "hf"),
        "HF_HUB_OFFLINE": "1",
        "REDPENCIL_CACHE": str(scratch / "cache"),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
    }


def measure(
    case: Case,
    names: Sequence[str],
    rounds: int,
    folder: Path,
    data: Path | None,
    shape: Shape | None = None,
) -> Measurement:
    """Run one case: compare the first steps, then time `rounds` steps of each in turn."""
    job = build(case, COMPARED_STEPS + rounds, folder, data, shape)
    steps: dict[str, list[Step]] = {name: [] for name in names}
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, job)) for name in names]
        ready = ", ".join(f"{w.name} {w.setup_seconds:.1f} s" for w in workers)
        print(f"set-up after imports: {ready}")
        for number in range(COMPARED_STEPS):
            agree({w.name: w.step() for w in workers}, number + 1)
        for number in range(rounds):
            first = number % len(workers)  # no one always computes on another's warm caches
            for worker in workers[first:] + workers[:first]:
                steps[worker.name].append(worker.step())
    return Measurement(case.name, case.what, case.pairs, steps)


def agree(steps: Mapping[str, Step], number: int) -> None:
    """Raise BenchmarkError unless all did the same in step `number`."""
    (ours, one), *others = steps.items()
    for theirs, other in others:
        for what, tolerance in TOLERANCE.items():
            a, b = getattr(one, what), getattr(other, what)
            if not abs(a - b) <= tolerance * abs(b):
                raise BenchmarkError(
                    f"nothing is timed: in step {number} {what} is {a} for {ours} and {b} for "
                    f"{theirs}, which is not the same computation"
                )


def data_folder() -> Path | None:
    """Where real third-party data lies, or None."""
    folder = Path(os.environ.get("REDPENCIL_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{model}, {os.cpu_count()} logical cores, Python {platform.python_version()}"


def main() -> int:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # workers and scratch files go, too
    data = data_folder()
    measured: list[Measurement] = []
    print(machine())
    for name in args.contestants:
        print(f"{name:12} {CONTESTANTS[name].what}")
    with tempfile.TemporaryDirectory(prefix="redpencil-bench-") as scratch:
        for name in args.cases:
            case = CASES[name]
            if case.source == "hh" and data is None:
                print(f"\n{name}: skipped, no data folder (set REDPENCIL_DATA)")
                continue
            try:
                found = measure(case, args.contestants, args.rounds, Path(scratch) / name, data)
            except (BenchmarkError, OSError, ValueError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
            measured.append(found)
            print(f"\n{name}: {case.what}; {case.pairs} pairs a step, {args.rounds} timed")
            print(plain(HEADER[1:], [row[1:] for row in rows(found)]), flush=True)
    if args.markdown and measured:
        table = markdown(HEADER, [row for found in measured for row in rows(found)])
        args.markdown.write_text(f"{machine()}\n\n{table}\n", encoding="utf-8")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for flag, known, usual in (
        ("--cases", CASES, list(CASES)),
        ("--contestants", CONTESTANTS, USUAL),
    ):
        parser.add_argument(
            flag, default=usual, type=one_of(known), metavar="A,B", help=", ".join(known)
        )
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each (7)")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def one_of(known: Mapping[str, object]) -> Any:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"choose from {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
