"""redpencil on one GPU: trees, no sharing, and padding, on random weights of real shapes.

    python -m benchmarks.gpu [--sizes 0.5b,1.5b,8b] [--train lora,full] [--ways trees,padded,...]
        [--prompt 512] [--response 128] [--responses 2] [--batch-size 32] [--batches 3]
        [--max-tokens 16384] [--pairs-per-micro-batch 8] [--rounds 6] [--heads] [--out runs/gpu]
        [--dry-run]

Needs torch, transformers, peft and this repository; nothing is downloaded. The ways of making a
step are told in benchmarks/gpu_steps.py; those of one case train the same weights in turn, step by
step, on the same prompts, and their first loss and gradient norm must agree within bfloat16's
rounding.
A way that runs out of memory halves its micro-batches, as redpencil does, until it fits or is
reported as not fitting. Full training keeps float32 weights under bfloat16 autocast, adapters sit
on bfloat16 weights. The table goes to OUT/gpu.md after every case.

--dry-run does all that on a CPU in float32, with a tiny model, in seconds.
"""

import argparse
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import transformers
from benchmarks.gpu_case import SIZES, BenchmarkError, Case, Contestant, run
from benchmarks.gpu_heads import compare_heads, heads_table
from benchmarks.gpu_steps import Way
from benchmarks.needs import matmul_peak, operations
from benchmarks.step import Shape

from redpencil.models.memory import is_out_of_memory, release_cached_memory
from redpencil.models.probe import takes_trees
from redpencil.types import Batch, Example

WAYS = "trees,trees+recompute,unshared,padded,padded+recompute,padded+live+recompute"
"""The last one is TRL as installed: live reference, activation checkpointing."""

HEADER = (
    "case", "way", "s/step", "distinct tokens/s", "pairs/s", "times as long", "peak GB",
    "of the peak", "micro-batch", "first loss",
)  # fmt: skip

NOTE = """\
Padded: scaled-dot-product attention over padded sequences, as TRL computes it. Medians over timed
steps. Times as long: the median of ratios to the first way on the same batch. Of the peak:
operations that the distinct tokens need (benchmarks/needs.py) over the measured matrix-product
peak. Micro-batch: distinct tokens, or pairs where padded. First loss: before any update, the same
for all but rounding."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--sizes", type=_list_of(SIZES), default=["0.5b", "1.5b", "8b"])
    parser.add_argument("--train", type=_list_of(("lora", "full")), default=["lora", "full"])
    parser.add_argument("--ways", type=_ways, default=_ways(WAYS))
    for name, default in {
        "prompt": 512, "response": 128, "responses": 2, "batch-size": 32, "batches": 3,
        "max-tokens": 16_384, "pairs-per-micro-batch": 8, "rounds": 6,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--heads", action="store_true", help="compare output heads, too")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--dry-run", action="store_true", help="tiny, float32, on the CPU")
    args = parser.parse_args(argv)
    if args.dry_run:
        tiny = {"sizes": ["tiny"], "prompt": 12, "response": 5, "batch_size": 4, "batches": 2}
        vars(args).update(tiny, max_tokens=48, pairs_per_micro_batch=2, rounds=2)
    elif not torch.cuda.is_available():
        parser.error("no CUDA device found; --dry-run tries everything on the CPU")
    return args


def _list_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def _ways(text: str) -> list[Way]:
    try:
        return [Way.named(name) for name in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def batches_for(case: Case, args: argparse.Namespace) -> list[list[Example]]:
    """Prompts with responses of random tokens, one list for each optimizer step."""
    shape = Shape(
        prompts=args.batches * args.batch_size,
        prompt=args.prompt,
        response=args.response,
        responses=args.responses,
        vocabulary=case.config.vocab_size,
    )
    examples = shape.examples()
    return [examples[i : i + args.batch_size] for i in range(0, len(examples), args.batch_size)]


def rows(
    case: Case,
    contestants: Sequence[Contestant],
    laid: Sequence[Batch],
    needs: list[float],
    peak: float,
) -> list[tuple[str, ...]]:
    """One for each way, under HEADER. laid: the batches as trees. needs: operations of each."""
    name = f"{case.size} {case.train}"
    tokens = [sum(len(m.input_ids) for m in b.micro_batches) for b in laid]
    pairs = [b.count("comparison") for b in laid]
    made = []
    for c in contestants:
        if c.failure or not c.timed:
            made.append((name, c.way.name, "does not fit", *["–"] * (len(HEADER) - 3)))
            continue
        ratios = [s / f for (_, s), (_, f) in zip(c.timed, contestants[0].timed, strict=False)]
        made.append((
            name,
            c.way.name,
            f"{_median(s for _, s in c.timed):.3f}",
            f"{_median(tokens[at] / s for at, s in c.timed):,.0f}",
            f"{_median(pairs[at] / s for at, s in c.timed):.2f}",
            f"{_median(ratios):.2f}" if ratios else "–",
            f"{c.peak / 1e9:.1f}" if c.peak else "–",
            f"{_median(needs[at] / s for at, s in c.timed) / peak:.1%}",
            f"{c.budget:,}",
            f"{c.first[0]:.5f}",
        ))  # fmt: skip
    return made


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def markdown(table: Sequence[tuple[str, ...]]) -> str:
    lines = [HEADER, ("---",) * len(HEADER), *table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def one_case(
    case: Case, args: argparse.Namespace, peak: float
) -> tuple[list[tuple[str, ...]], str]:
    """Its rows, and a line about it. A model that does not fit itself is a row, too."""
    batches = batches_for(case, args)
    try:
        model = case.model()
        takes, reason = takes_trees(model)
        if not takes:
            raise BenchmarkError(f"{case.size}: {reason}")
        laid = [Way.named("trees").batch(examples, case.max_tokens) for examples in batches]
        needs = [operations(model, batch) for batch in laid]
        contestants = run(case, model, args.ways, batches, args.rounds)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        nothing = ["–"] * (len(HEADER) - 3)
        return [(f"{case.size} {case.train}", "all", "does not fit", *nothing)], ""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    about = f"{case.size} {case.train}: {millions:,.1f} M parameters; {reason}"
    return rows(case, contestants, laid, needs, peak), about


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # lengths vary
    device = torch.device("cpu" if args.dry_run else "cuda")
    dtype = torch.float32 if args.dry_run else torch.bfloat16
    peak = matmul_peak(device, dtype, size=256 if args.dry_run else 8192, rounds=20)
    machine = platform.processor() or platform.machine()
    machine = machine if args.dry_run else torch.cuda.get_device_name()
    about = [
        f"{machine}, torch {torch.__version__}, transformers {transformers.__version__}; "
        f"matrix-product peak {peak / 1e12:.2f} TFLOP/s in {str(dtype).removeprefix('torch.')}; "
        f"prompt {args.prompt}, {args.responses} responses of {args.response} tokens, "
        f"{args.batch_size} prompts a step"
    ]
    table: list[tuple[str, ...]] = []
    heads = ""
    args.out.mkdir(parents=True, exist_ok=True)
    if args.heads:
        heads = _heads(device, dtype, args)
    for size in args.sizes:
        for train in args.train:
            case = Case(
                size=size,
                train=train,
                device=device,
                max_tokens=args.max_tokens,
                pairs=args.pairs_per_micro_batch,
            )
            more, line = one_case(case, args, peak)
            release_cached_memory()
            table += more
            about += [line] if line else []
            page = "\n\n".join([*about, markdown(table), NOTE, *([heads] if heads else [])])
            (args.out / "gpu.md").write_text(page + "\n", encoding="utf-8")
            print("\n".join(" | ".join(row) for row in more), flush=True)
    print(f"written to {args.out / 'gpu.md'}")


def _heads(device: torch.device, dtype: torch.dtype, args: argparse.Namespace) -> str:
    sizes = {"tokens": 8192, "width": 2048, "vocabulary": 151_936}
    if args.dry_run:
        sizes = {"tokens": 60, "width": 32, "vocabulary": 97}
    results = compare_heads(device, dtype, **sizes, rounds=args.rounds)
    words = ", ".join(f"{name} {value:,}" for name, value in sizes.items())
    table = heads_table(results)
    print(table, flush=True)
    return f"Output heads, forward and backward ({words}):\n\n{table}"


if __name__ == "__main__":
    try:
        main()
    except BenchmarkError as error:
        raise SystemExit(f"gpu: {error}") from None
