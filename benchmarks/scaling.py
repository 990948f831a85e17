"""How the cost of a step grows: with tokens, responses, prompt length, and pairs in the data set.

    python -m benchmarks.scaling [--rounds 5] [--pairs 1000,10000,100000,1000000]

For tokens, responses and prompts the settings of a table are stepped in turn, so that a slow moment
of the machine falls on all of them. The data-set sizes run in a process each, because memory is
measured too: what is held of a file of pairs once it is read, and what training adds to that.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from benchmarks.step import Shape, Stepper, small_model

from redpencil.data.loader import Loader, LoaderState
from redpencil.models.kernels import choose_kernels, keep_freed_memory, matrix_kernels
from redpencil.recipes.stages import DpoRecipe
from redpencil.stages.prepare import prepare
from redpencil.world.tokenizer import world_tokenizer

BASE = Shape(prompts=32, prompt=150, response=60, batch_size=8)
TABLES: Mapping[str, Sequence[tuple[str, Shape]]] = {
    "prompts in a step": [(f"{n}", replace(BASE, batch_size=n)) for n in (4, 8, 16, 32)],
    "responses to a prompt": [(f"{k}", replace(BASE, responses=k)) for k in (2, 4, 8)],
    "tokens of a prompt": [(f"{p}", replace(BASE, prompt=p)) for p in (50, 200, 800)],
}


def grow(settings: Sequence[tuple[str, Shape]], rounds: int) -> list[str]:
    """Rows (setting, tokens, seconds, microseconds a token, pairs a second)."""
    steppers = {name: Stepper(small_model(shape.vocabulary), shape) for name, shape in settings}
    measured: dict[str, list[tuple[int, int, float]]] = {name: [] for name in steppers}
    with matrix_kernels(choose_kernels(next(iter(steppers.values())).model).name):
        for turn in range(rounds + 1):
            for name, stepper in steppers.items():
                batch, _, seconds = stepper.step()
                tokens = sum(len(m.input_ids) for m in batch.micro_batches)
                if turn:  # the first step compiles and fills the allocator
                    measured[name].append((tokens, batch.count("comparison"), seconds))
    lines = []
    for name, steps in measured.items():
        tokens, pairs = (int(statistics.median(s[i] for s in steps)) for i in (0, 1))
        seconds = statistics.median(s[2] for s in steps)
        each = statistics.median(s[2] / s[0] for s in steps)
        lines.append(
            f"| {name} | {tokens:,} | {seconds:.3f} | {1e6 * each:.0f} | {pairs / seconds:.1f} |"
        )
    return lines


def resident_mib() -> float:
    """Memory of this process now, as Linux counts it."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4096 / 2**20


def write_pairs(path: Path, pairs: int) -> None:
    """Rows of about 150 tokens of prompt and 60 of each answer, in the review world's words."""
    rng = random.Random(0)
    # A word with a space before it is a token of that tokenizer.
    vocabulary = sorted(t for t in world_tokenizer().get_vocab() if t[1:].islower() and t[0] == " ")

    def text(words: int) -> str:
        return "".join(rng.choices(vocabulary, k=max(2, int(rng.gauss(words, words / 4)))))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(pairs):
            row = {"prompt": text(150), "chosen": text(60), "rejected": text(60)}
            file.write(json.dumps(row) + "\n")


def one_size(path: Path, rounds: int) -> dict[str, float]:
    """Time and memory of reading a file of pairs and training on it."""
    keep_freed_memory()
    tokenizer = world_tokenizer()
    recipe = DpoRecipe(model="unread", data=str(path), out="unwritten", eval_fraction=0.01)
    begin, begun = resident_mib(), time.perf_counter()
    prepared = prepare(recipe, "preference", tokenizer, 2048)
    reading = time.perf_counter() - begun
    held = resident_mib() - begin
    loader = Loader(examples=prepared.train, batch_size=8, max_tokens=BASE.max_tokens, seed=0)
    batches = loader.iterate(LoaderState())
    begun = time.perf_counter()
    next(batches)  # shuffles the epoch
    first = time.perf_counter() - begun
    times = []
    for _ in islice(batches, 50):
        now = time.perf_counter()
        times.append(now - begun)
        begun = now
    shape = replace(BASE, vocabulary=len(tokenizer))
    stepper = Stepper(small_model(shape.vocabulary), shape, examples=prepared.train)
    with matrix_kernels(choose_kernels(stepper.model).name):
        stepper.step()
        steady = resident_mib()
        steps = [stepper.step()[2] for _ in range(rounds)]
    return {
        "reading_s": reading,
        "held_mib": held,
        "training_mib": steady - begin - held,
        "first_batch_ms": 1e3 * first,
        "batch_ms": 1e3 * float(np.median(times)),
        "step_s": statistics.median(steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", default="1000,10000,100000,1000000")
    parser.add_argument("--one-size", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one_size:
        print(json.dumps(one_size(args.one_size, args.rounds)))
        return
    keep_freed_memory()
    for title, settings in TABLES.items():
        print(f"| {title} | distinct tokens | s a step | us a token | pairs/s |")
        print("| --- | --- | --- | --- | --- |")
        print("\n".join(grow(settings, args.rounds)), end="\n\n", flush=True)
    print(
        "| pairs | reading, s | data, MiB | training, MiB | first batch, ms | a batch, ms | "
        "s a step |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for pairs in map(int, args.pairs.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pairs.jsonl"
            write_pairs(path, pairs)
            command = [sys.executable, "-m", "benchmarks.scaling", "--rounds", str(args.rounds)]
            done = subprocess.run(
                [*command, "--one-size", str(path)], stdout=subprocess.PIPE, text=True, check=True
            )
        row = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {pairs:,} | {row['reading_s']:.1f} | {row['held_mib']:.0f} | "
            f"{row['training_mib']:.0f} | {row['first_batch_ms']:.1f} | {row['batch_ms']:.2f} | "
            f"{row['step_s']:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
