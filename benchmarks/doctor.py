"""How long `redpencil check` takes and how much memory, as the file grows.

    python -m benchmarks.doctor [--rows 10000,100000,1000000] [--folder /tmp/doctor]

The rows are made here, the same each time: a prompt of 5 to 20 words, responses of 10 to 40, drawn
from 20,000 words as unevenly as in a language. One row in a thousand says almost the same as an
earlier one, one in two thousand is an exact copy, and one in two thousand rejects what an earlier
one prefers. What check finds must be those rows.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WORDS = 20_000
EARLIER = 10_000
"""Copies are of one of the last so many rows."""


@dataclass(frozen=True, slots=True)
class Planted:
    """How many rows of each kind a file has."""

    near: int = 0
    exact: int = 0
    crossed: int = 0


def vocabulary(rng: np.random.Generator) -> list[str]:
    """Words of two to five syllables."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    made: dict[str, None] = {}
    while len(made) < WORDS:
        made["".join(rng.choice(syllables, size=rng.integers(2, 6)))] = None
    return list(made)


def rows(count: int, seed: int = 0) -> Iterator[tuple[str, dict[str, str]]]:
    """(kind, row): kind is "fresh", "near", "exact" or "crossed"."""
    rng = np.random.default_rng(seed)
    words = np.array(vocabulary(rng), dtype=object)
    # Zipf's law, flattened at its head, as of content and function words together.
    share = np.cumsum(1 / (np.arange(WORDS) + 10))
    recent: list[tuple[str, str, str]] = []
    for number in range(count):
        kind = "fresh"
        if number % 1000 == 999:
            kind = "near"
        elif number % 2000 in (500, 1500):
            kind = "exact" if number % 2000 == 500 else "crossed"
        if kind == "fresh":
            lengths = rng.integers([5, 10, 10], [21, 41, 41])
            drawn = words[np.searchsorted(share, rng.random(lengths.sum()) * share[-1])]
            prompt, chosen, rejected = (" ".join(w) for w in np.split(drawn, lengths.cumsum()[:2]))
            if len(recent) < EARLIER:
                recent.append((prompt, chosen, rejected))
            else:
                recent[number % EARLIER] = (prompt, chosen, rejected)
        else:
            prompt, chosen, rejected = recent[int(rng.integers(len(recent)))]
            if kind == "near":
                chosen = f"{chosen} {words[int(rng.integers(WORDS))]}"
            elif kind == "crossed":
                chosen, rejected = rejected, chosen
        yield kind, {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def write(path: Path, count: int) -> Planted:
    """The file, if it is not there yet, and what is planted in it."""
    about = path.with_suffix(".planted.json")
    if not about.is_file():
        planted = {"near": 0, "exact": 0, "crossed": 0, "fresh": 0}
        with path.open("w", encoding="utf-8") as file:
            for kind, row in rows(count):
                planted[kind] += 1
                file.write(json.dumps(row) + "\n")
        del planted["fresh"]
        about.write_text(json.dumps(planted), encoding="utf-8")
    return Planted(**json.loads(about.read_text(encoding="utf-8")))


def measure(path: Path, arguments: Sequence[str]) -> tuple[float, float, dict[str, int]]:
    """Seconds, peak MB and findings (key: count) of `redpencil check`."""
    command = [sys.executable, "-m", "redpencil.cli.main", "check", str(path), "--json", *arguments]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise SystemExit(f"{' '.join(command)} failed")
    found = {f["key"]: f["count"] for f in json.loads(said)["findings"]}
    return seconds, used.ru_maxrss / 1024, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/redpencil-doctor"))
    parser.add_argument("check", nargs="*", help="more arguments for check, after --")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print("| rows | MB on disk | s | µs a row | peak MB | found (planted) |")
    print("| --- | --- | --- | --- | --- | --- |")
    for count in map(int, options.rows.split(",")):
        path = options.folder / f"rows-{count}.jsonl"
        planted = write(path, count)
        seconds, peak, found = measure(path, options.check)
        said = ", ".join(f"{key} {number:,}" for key, number in found.items())
        size = path.stat().st_size / 1e6
        print(
            f"| {count:,} | {size:,.0f} | {seconds:,.1f} | {seconds / count * 1e6:,.0f} | "
            f"{peak:,.0f} | {said} ({planted}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
