"""How long a run waits for a reference that is known already: another beta, rate or seed.

    python -m benchmarks.cached [--pairs 2000,100000]

A cache of all responses is written in shards, as a pass leaves it. "First" is the run that finds
the shards as they were left and makes them one; "later" are those after it. Each time is all that
lies between the examples and the values: hashing the responses, opening, looking up. What a run
does besides (reading its data, hashing its weights) it does either way.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from benchmarks.compare import machine
from benchmarks.scaling import write_pairs
from benchmarks.table import plain
from torch import nn

from redpencil.data.store import Examples
from redpencil.recipes.stages import DpoRecipe
from redpencil.scores.cache import ReferenceCache
from redpencil.scores.fingerprint import response_keys
from redpencil.scores.reference import SHARD_RESPONSES, reference_logps
from redpencil.stages.prepare import prepare
from redpencil.types import TreeBatch
from redpencil.world.tokenizer import world_tokenizer

HEADER = ("pairs", "responses", "shards", "first run, s", "later runs, s")
LATER = 3


def examples_of(pairs: int, folder: Path) -> Examples:
    """Prompts of 150 tokens with two answers of 60, on disk as a run has them."""
    write_pairs(folder / "pairs.jsonl", pairs)
    recipe = DpoRecipe(
        model="unread", data=str(folder / "pairs.jsonl"), out="unwritten", eval_fraction=0
    )
    return prepare(recipe, "preference", world_tokenizer(), 2048).train


def row(pairs: int, folder: Path) -> tuple[str, ...]:
    examples = examples_of(pairs, folder)
    keys = response_keys(examples)
    written = ReferenceCache(folder / "cache")
    parts = np.array_split(keys, -(-len(keys) // SHARD_RESPONSES))
    for part in parts:
        written.add(part, np.zeros(len(part), dtype=np.float32))
    seconds = [wait(examples, folder / "cache") for _ in range(1 + LATER)]
    return (
        f"{pairs:,}", f"{len(keys):,}", f"{len(parts)}", f"{seconds[0]:.2f}",
        f"{sorted(seconds[1:])[LATER // 2]:.2f}",
    )  # fmt: skip


def wait(examples: Examples, folder: Path) -> float:
    begun = time.perf_counter()
    values = reference_logps(
        nn.Identity(), refuse, examples, lay=refuse, cache=ReferenceCache(folder), track=refuse
    )
    assert not np.isnan(values).any(), "all of it is known"
    return time.perf_counter() - begun


def refuse(*args: object) -> Iterable[TreeBatch]:
    raise AssertionError("computed what is known")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pairs", default="2000,100000")
    args = parser.parse_args(argv)
    print(machine())
    for pairs in map(int, args.pairs.split(",")):
        with tempfile.TemporaryDirectory(prefix="redpencil-cached-") as folder:
            print(plain(HEADER, [row(pairs, Path(folder))]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
