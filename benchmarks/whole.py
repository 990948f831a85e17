"""Whole commands: `redpencil dpo` against a TRL script on the same real pairs, by the clock.

    python -m benchmarks.whole [--pairs 2000] [--rounds 1] [--contestants redpencil,trl]
                               [--markdown FILE]

From the start of the process to its end: imports, reading, tokenizing, the reference, one epoch at
8 pairs a step, saving; redpencil also writes its checkpoints and its report. Nothing is cached from
one run to the next. Both shuffle for themselves, so losses are not compared, only steps counted.
The pairs are Anthropic HH's and, where those are too few, pairs of grade-school solutions and of
chats.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.cases import (
    MAX_LENGTH,
    TOKENIZER_SIZE,
    Shape,
    fitting,
    real_pairs,
    save_model,
    text_tokenizer,
    write_pairs,
)
from benchmarks.compare import (
    ROOT,
    BenchmarkError,
    data_folder,
    environment,
    machine,
    one_of,
    python_of,
)
from benchmarks.table import markdown, plain

BATCH = 8
CONTESTANTS = ("redpencil", "trl", "trl-tuned")
HEADER = ("contestant", "seconds", "pairs/s", "times slower (range)")
CALL = "import sys; from redpencil.cli.main import main; sys.exit(main())"


def command(name: str, model: Path, data: Path, out: Path) -> list[str]:
    """What a user types, or the script that a user of TRL writes."""
    if name != "redpencil":
        flags = ["--tuned"] if name == "trl-tuned" else []
        files = [str(model), str(data), str(out)]
        return [python_of(name), "-m", "benchmarks.trl_script", *files, *flags]
    options = {
        "--model": model,
        "--data": data,
        "--out": out,
        "--batch-size": BATCH,
        "--epochs": 1,
        "--learning-rate": 1e-5,
        "--max-length": MAX_LENGTH,
        "--eval-fraction": 0,  # all pairs are trained on, as in the script
    }
    typed = [str(word) for option in options.items() for word in option]
    return [python_of(name), "-c", CALL, "dpo", *typed]


def prepare(pairs: int, folder: Path, data: Path) -> None:
    """Write model, tokenizer and `pairs` pairs. Raises ValueError if there are too few."""
    available = real_pairs(data)
    tokenizer = text_tokenizer(available)
    chosen = fitting(available, tokenizer)[:pairs]
    if len(chosen) < pairs:
        raise ValueError(f"{len(chosen)} usable pairs in {data}: fewer --pairs")
    save_model(Shape(), TOKENIZER_SIZE, tokenizer, folder / "model")
    write_pairs(chosen, folder / "pairs.jsonl")


def run(name: str, folder: Path, out: Path) -> float:
    """Seconds of one whole command. Raises BenchmarkError where it fails."""
    out.mkdir(parents=True)
    typed = command(name, folder / "model", folder / "pairs.jsonl", out / "run")
    log = out / "log"
    with log.open("w", encoding="utf-8") as lines:
        begun = time.perf_counter()
        code = subprocess.call(
            typed, cwd=ROOT, env=environment(out), stdout=lines, stderr=subprocess.STDOUT
        )
        seconds = time.perf_counter() - begun
    if code:
        said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise BenchmarkError(f"{name} ended with exit code {code}; the end of its log:\n{said}")
    return seconds


def steps_made(name: str, run_folder: Path) -> int:
    """Optimizer steps by the run's own record."""
    if name == "redpencil":
        metrics = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return int(json.loads(metrics[-1])["step"])
    state = json.loads((run_folder / "trainer_state.json").read_text(encoding="utf-8"))
    return int(state["global_step"])


def measure(
    names: Sequence[str], pairs: int, rounds: int, scratch: Path, data: Path
) -> dict[str, list[float]]:
    """Seconds of each contestant, a run of each in turn."""
    prepare(pairs, scratch, data)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            out = scratch / f"{name}-{number}"
            seconds[name].append(run(name, scratch, out))
            made, wanted = steps_made(name, out / "run"), -(-pairs // BATCH)
            if made != wanted:
                raise BenchmarkError(f"{name} made {made} steps of {wanted}: not the same work")
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    return seconds


def rows(seconds: Mapping[str, Sequence[float]], pairs: int) -> list[tuple[str, ...]]:
    first = next(iter(seconds.values()))
    table: list[tuple[str, ...]] = []
    for name, taken in seconds.items():
        ratios = [b / a for a, b in zip(first, taken, strict=True)]
        median = statistics.median(taken)
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.append((name, f"{median:.1f}", f"{pairs / median:.2f}", spread))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pairs", type=int, default=2000, help="how many to train on (2000)")
    parser.add_argument("--rounds", type=int, default=1, help="whole runs of each (1)")
    parser.add_argument(
        "--contestants", default=list(CONTESTANTS), metavar="A,B", help=", ".join(CONTESTANTS),
        type=one_of(dict.fromkeys(CONTESTANTS)),
    )  # fmt: skip
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    data = data_folder()
    if data is None or args.pairs < 1 or args.rounds < 1:
        parser.error("no data folder (set REDPENCIL_DATA), or --pairs or --rounds below 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # scratch files go, too
    print(machine())
    try:
        with tempfile.TemporaryDirectory(prefix="redpencil-whole-") as scratch:
            found = measure(args.contestants, args.pairs, args.rounds, Path(scratch), data)
    except (BenchmarkError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    table = rows(found, args.pairs)
    print(plain(HEADER, table))
    if args.markdown:
        args.markdown.write_text(f"{machine()}\n\n{markdown(HEADER, table)}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
