"""How full micro-batches are on real pairs, and how alike those of a step.

    python -m benchmarks.filling

HH pairs as they are, sequences of up to 512 tokens. "Filled": tokens over the budgets of all
micro-batches. "More than needed": micro-batches above the least that hold a step's tokens.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from benchmarks.cases import MAX_LENGTH, fitting, hh_pairs, shuffled, text_tokenizer, write_pairs
from benchmarks.compare import data_folder
from benchmarks.table import plain

from redpencil.data.loader import LOOK_AHEAD, Loader, LoaderState, all_once
from redpencil.data.store import Examples
from redpencil.fit.budget import CAP
from redpencil.recipes.stages import DpoRecipe
from redpencil.stages.prepare import prepare
from redpencil.types import TreeBatch

HEADER = ("", "budget", "filled", "more than needed", "largest / mean of a step")
BUDGETS = (CAP["cpu"], 4096, 8192)
PROMPTS = (8, 32, 64, 256)


def real_examples(data: Path) -> Examples:
    """HH's pairs, tokenized and grouped as a run does it."""
    pairs = shuffled(list(hh_pairs(data)))
    tokenizer = text_tokenizer(pairs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        write_pairs(fitting(pairs, tokenizer), path)
        recipe = DpoRecipe(model="unread", data=str(path), out="unwritten", eval_fraction=0)
        return prepare(recipe, "preference", tokenizer, MAX_LENGTH).train


def one_pass(examples: Examples, budget: int) -> tuple[str, ...]:
    """The last micro-batch holds what is left, and is not counted."""
    sizes = [_tokens(m) for m in all_once(examples, budget)]
    filled = statistics.mean(sizes[:-1]) / budget
    return f"one pass, looking {LOOK_AHEAD} ahead", f"{budget:,}", f"{filled:.1%}", "", ""


def steps(examples: Examples, budget: int, prompts: int) -> tuple[str, ...]:
    loader = Loader(examples=examples, batch_size=prompts, max_tokens=budget, seed=0)
    whole = len(examples) // prompts  # an epoch's last step may be smaller
    batches = [b for b, _ in islice(loader.iterate(LoaderState()), whole)]
    sizes = [[_tokens(m) for m in b.micro_batches] for b in batches]
    filled = sum(map(sum, sizes)) / (budget * sum(map(len, sizes)))
    more = statistics.mean(len(s) > -(-sum(s) // budget) for s in sizes)
    uneven = statistics.mean(max(s) / statistics.mean(s) for s in sizes)
    name = f"training, {prompts} prompts a step"
    return name, f"{budget:,}", f"{filled:.0%}", f"in {more:.0%} of steps", f"{uneven:.2f}"


def _tokens(micro_batch: TreeBatch) -> int:
    return len(micro_batch.input_ids)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.parse_args(argv)
    data = data_folder()
    if data is None:
        parser.error("no data folder (set REDPENCIL_DATA)")
    examples = real_examples(data)
    tokens = statistics.mean(len(e.prompt_ids) for e in examples)
    print(f"{len(examples):,} prompts of {tokens:.0f} tokens on average, responses apart")
    rows = [one_pass(examples, budget) for budget in BUDGETS]
    rows += [steps(examples, budget, prompts) for budget in BUDGETS[:2] for prompts in PROMPTS]
    print(plain(HEADER, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
