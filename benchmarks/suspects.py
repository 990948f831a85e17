"""How good is the list of suspect labels, and does mending the data help?

    python -m benchmarks.suspects lists DATA REFERENCE [--encoder MODEL]
    python -m benchmarks.suspects recovery REFERENCE OUT [--seeds 0 1 2 3 4]

DATA is the folder of real data that the tests use, REFERENCE the review world's language model
(`redpencil demo --out runs/demo` makes it: runs/demo/sft/model). Labels whose truth is known are
flipped on purpose; `lists` asks how many of them are named, `recovery` what DPO learns from the
clean, the noisy and the mended data. Everything is seeded; runs that are finished are not redone.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from benchmarks.known_labels import Case, Rows, cases, world_rows

from redpencil.evals.crossfit import cross_fit
from redpencil.evals.suspicion import suspicion
from redpencil.folders.run import RunFolder
from redpencil.frontier.review_world import complete
from redpencil.recipes.stages import DpoRecipe
from redpencil.stages.run import train
from redpencil.use.api import load
from redpencil.use.mending import write_mended
from redpencil.use.suspects import find_suspects
from redpencil.world.pairs import prefixes
from redpencil.world.settings import DemoSettings

RATES = (0.05, 0.1, 0.2)
FLIP_SEEDS = range(5)
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""95 % quantiles of Student's t for the mean of so many seeds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    lists = parts.add_parser("lists")
    lists.add_argument("data", type=Path)
    lists.add_argument("reference")
    lists.add_argument("--encoder", help="an encoder to judge rt-polarity with, too")
    recovery = parts.add_parser("recovery")
    recovery.add_argument("reference")
    recovery.add_argument("out", type=Path)
    recovery.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    if args.part == "lists":
        measure_lists(args.data, args.reference, args.encoder)
    else:
        measure_recovery(args.reference, args.out, args.seeds)


# The lists


def measure_lists(data: Path, reference: str, encoder: str | None) -> None:
    print(
        "| pairs | flipped | agreement | estimated rate | list as long as the flips: right | "
        "named | expected wrong | wrong | of the flips |"
    )
    print("| --- " * 9 + "|")
    for make in cases(data, reference, encoder):
        case = make()
        for rate in (0.0, *RATES):
            found = [_one_list(case, rate, seed) for seed in FLIP_SEEDS]
            print(_list_row(case, rate, found), flush=True)


def _one_list(case: Case, rate: float, seed: int) -> dict[str, float]:
    """Flip, judge, and compare the list with what was flipped."""
    flipped = _flips(len(case.pairs), rate, seed)
    signs = np.where(flipped, -1.0, 1.0)
    features = {name: x * signs[:, None] for name, x in case.features.items()}
    sure = np.ones(len(flipped))
    fitted = cross_fit(features, sure, case.pairs.keys, seed=seed)
    verdict = suspicion(fitted.margins, sure, case.pairs.keys, seed=seed)
    named = verdict.suspects
    count = int(flipped.sum())
    found = {
        "agreement": verdict.accuracy,
        "rate": verdict.rate,
        "refused": verdict.refusal is not None,
        "at_count": _share(flipped[np.argsort(fitted.margins, kind="stable")[:count]]),
        "named": len(named),
        "expected": verdict.expected_precision or np.nan,
        "precision": _share(flipped[named]),
        "recall": flipped[named].sum() / count if count else np.nan,
    }
    if case.gaps is not None:
        best = np.argsort(case.gaps * signs, kind="stable")[:count]
        found["ceiling"] = _share(flipped[best])
    return found


def _flips(count: int, rate: float, seed: int) -> np.ndarray:
    flipped = np.zeros(count, dtype=bool)
    rng = np.random.default_rng((seed, round(1000 * rate)))
    flipped[rng.choice(count, round(rate * count), replace=False)] = True
    return flipped


def _share(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _list_row(case: Case, rate: float, found: Sequence[Mapping[str, float]]) -> str:
    def column(name: str) -> str:
        return _with_interval([f[name] for f in found])

    ceiling = f" (by the truth {column('ceiling')})" if "ceiling" in found[0] and rate else ""
    refused = sum(bool(f["refused"]) for f in found)
    named = f"{np.mean([f['named'] for f in found]):.0f}"
    cells = [
        f"{case.name}: {len(case.pairs):,}",
        f"{rate:.0%}",
        column("agreement"),
        column("rate"),
        (column("at_count") + ceiling) if rate else "",
        named if not refused else f"{named}, refused {refused} of {len(found)}",
        column("expected"),
        column("precision"),
        column("recall") if rate else "",
    ]
    return "| " + " | ".join(cells) + " |"


def _with_interval(values: Sequence[float]) -> str:
    """Mean over the seeds and half of its 95 % interval, in percent."""
    known = 100 * np.array([v for v in values if not np.isnan(v)])
    if not len(known):
        return ""
    if len(known) not in STUDENT:
        return f"{known.mean():.1f} %"
    half = STUDENT[len(known)] * known.std(ddof=1) / len(known) ** 0.5
    return f"{known.mean():.1f} ± {half:.1f} %"


# What training recovers

NOISE = 0.2
TRAIN_PREFIXES, EVAL_PREFIXES = 800, 500
WAYS = ("clean", "noisy", "drop", "flip", "soften", "drop all flips")


def measure_recovery(reference: str, out: Path, seeds: Sequence[int]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for seed in seeds:
        for way, path in _data(reference, out, seed).items():
            results[way].append(_trained(reference, out, seed, way, path))
            accuracy, reward = results[way][-1]
            print(f"seed {seed} {way}: accuracy {accuracy:.1%}, reward {reward:+.3f}", flush=True)
    print("| trained on | held-out accuracy | above noisy | true reward | above noisy |")
    print("| --- " * 5 + "|")
    for way in WAYS:
        print(_recovery_row(way, np.array(results[way]), np.array(results["noisy"])))


def _data(reference: str, out: Path, seed: int) -> dict[str, Path]:
    """The training data of each way, and `eval-SEED.jsonl`, whose labels are right."""
    paths = {way: out / f"{way.replace(' ', '-')}-{seed}.jsonl" for way in WAYS}
    if not paths["drop all flips"].exists():
        rows, _ = world_rows(reference, TRAIN_PREFIXES + EVAL_PREFIXES, seed, 0.0)
        rows = [r for r in rows if r["comparisons"]]
        train_rows, eval_rows = rows[EVAL_PREFIXES:], rows[:EVAL_PREFIXES]
        folder = RunFolder(out)
        folder.write_rows(f"eval-{seed}.jsonl", eval_rows)
        folder.write_rows(paths["clean"].name, train_rows)
        count = sum(len(r["comparisons"]) for r in train_rows)
        flips = iter(_flips(count, NOISE, seed).tolist())
        marked = [[(c, next(flips)) for c in r["comparisons"]] for r in train_rows]
        noisy = [[c[::-1] if f else c for c, f in row] for row in marked]
        folder.write_rows(paths["noisy"].name, _with(train_rows, noisy))
        found = find_suspects(str(paths["noisy"]), model=reference, seed=seed)
        print({k: found.header[k] for k in ("accuracy", "noise_rate", "suspects")})
        for how in ("drop", "flip", "soften"):
            write_mended(found, paths[how], how)
        kept = [[c for c, f in row if not f] for row in marked]
        folder.write_rows(paths["drop all flips"].name, _with(train_rows, kept))
    return paths


def _with(rows: Rows, comparisons: Sequence[Sequence[Sequence[int]]]) -> Rows:
    changed = zip(rows, comparisons, strict=True)
    return [{**row, "comparisons": list(own)} for row, own in changed if own]


def _trained(reference: str, out: Path, seed: int, way: str, path: Path) -> tuple[float, float]:
    """(accuracy on held-out pairs whose labels are right, true reward of what the policy says)."""
    settings = DemoSettings()
    run = train(
        DpoRecipe(
            model=reference,
            data=str(path),
            eval_data=str(out / f"eval-{seed}.jsonl"),
            out=str(out / f"run-{way.replace(' ', '-')}-{seed}"),
            beta=settings.dpo_beta,
            batch_size=settings.dpo_batch_size,
            max_steps=100,
            learning_rate=settings.dpo_learning_rate,
            warmup_steps=settings.dpo_warmup_steps,
            max_grad_norm=settings.max_grad_norm,
            eval_every=100,
            checkpoint_every=100,
            sample_prompts=0,
            seed=seed,
        )
    )
    folder = RunFolder(run.path)
    accuracy = folder.read("summary.json")["eval_after"]["rewards/accuracies"]
    known = run.path / "true_reward.json"
    if not known.is_file():
        starts = prefixes(300, 10_000 + seed)
        drawn = complete(load(run.model), starts, settings, num=2, seed=seed)
        folder.write(known.name, {"mean": drawn.mean, "stderr": drawn.stderr})
    return accuracy, folder.read(known.name)["mean"]


def _recovery_row(way: str, found: np.ndarray, noisy: np.ndarray) -> str:
    gained = found - noisy  # seed by seed: the same prefixes, completions and flips
    cells = [
        way,
        _with_interval(found[:, 0].tolist()),
        _with_interval(gained[:, 0].tolist()) if way != "noisy" else "",
        _mean(found[:, 1]),
        _mean(gained[:, 1]) if way != "noisy" else "",
    ]
    return "| " + " | ".join(cells) + " |"


def _mean(values: np.ndarray) -> str:
    if len(values) not in STUDENT:
        return f"{values.mean():+.3f}"
    half = STUDENT[len(values)] * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():+.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
