"""How good is the list of suspect labels, and does mending the data help?

    python benchmarks/suspects.py lists DATA REFERENCE [--encoder MODEL]
    python benchmarks/suspects.py recovery REFERENCE OUT [--seeds 0 1 2 3 4]

DATA is the folder of real data that the tests use, REFERENCE the review world's language model
(`redpencil demo --out runs/demo` makes it: runs/demo/sft/model). Labels whose truth is known are
flipped on purpose; `lists` asks how many of them are named, `recovery` what DPO learns from the
clean, the noisy and the mended data. Everything is seeded; runs that are finished are not redone.
"""

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redpencil.data.records import records_from_rows
from redpencil.evals.crossfit import cross_fit
from redpencil.evals.suspicion import suspicion
from redpencil.folders.run import RunFolder
from redpencil.frontier.review_world import complete
from redpencil.recipes.stages import DpoRecipe
from redpencil.stages.run import train
from redpencil.use.api import load
from redpencil.use.mending import write_mended
from redpencil.use.pair_features import PairSet, model_features, pair_set, word_features
from redpencil.use.suspects import HIDDEN, WORDS, find_suspects
from redpencil.world.pairs import label_pairs, prefixes
from redpencil.world.settings import DemoSettings

RATES = (0.05, 0.1, 0.2)
FLIP_SEEDS = range(5)
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""95 % quantiles of Student's t for the mean of so many seeds."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Pairs whose labels are right, with what judges them. gaps: (T,) log-odds of each label by
    the truth, where labels are drawn from it; None where they are certain."""

    name: str
    pairs: PairSet
    features: Mapping[str, np.ndarray]
    gaps: np.ndarray | None = None


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
    for make in _cases(data, reference, encoder):
        case = make()
        for rate in (0.0, *RATES):
            found = [_one_list(case, rate, seed) for seed in FLIP_SEEDS]
            print(_list_row(case, rate, found), flush=True)


def _cases(data: Path, reference: str, encoder: str | None) -> Sequence[Callable[[], Case]]:
    stories = str(data / "stories260K")

    def world(temperature: float) -> Case:
        rows, rewards = _world_rows(reference, 600, 0, temperature)
        case = _case("review world", rows, reference)
        if not temperature:
            return case
        own = [rewards[r.origin.row - 1] for r in case.pairs.records]
        gaps = [
            (r[c.chosen] - r[c.rejected]) / temperature
            for r, c in zip(own, case.pairs.comparisons, strict=True)
        ]
        name = f"review world, Bradley-Terry labels at {temperature}"
        return Case(name=name, pairs=case.pairs, features=case.features, gaps=np.array(gaps))

    sentiment = _sentiment(data)
    cases: list[Callable[[], Case]] = [
        lambda: world(0.0),
        lambda: world(0.25),
        lambda: _case("rt-polarity, words only", sentiment, None),
        lambda: _case("rt-polarity, stories260K", sentiment, stories),
        lambda: _case("nsmc-korean, words only", _korean(data), None),
        lambda: _case("gsm8k-solutions, stories260K", _sums(data), stories),
    ]
    if encoder:
        cases.insert(4, lambda: _case("rt-polarity, an encoder", sentiment, encoder))
    return cases


def _case(name: str, rows: Rows, model: str | None) -> Case:
    records = records_from_rows(rows, "preference").records
    if model is None:
        pairs, features = pair_set(records), {}
    else:
        seen = model_features(records, model, max_length=256)
        pairs, features = seen.pairs, {HIDDEN: seen.pairs.differences(seen.features)}
    words = pairs.differences(word_features(pairs.texts))
    return Case(name=name, pairs=pairs, features={**features, WORDS: words})


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


# Data whose labels are right


def _world_rows(
    reference: str, count: int, seed: int, temperature: float
) -> tuple[Rows, list[list[float]]]:
    """Rows with four completions of each of `count` prefixes, and their true rewards."""
    settings = DemoSettings()
    done = complete(load(reference), prefixes(count, seed), settings, num=4, seed=seed)
    rng = random.Random(f"labels {seed}")
    rewards = done.rewards.tolist()
    rows = [
        label_pairs(start, [t.removeprefix(start) for t in texts], each, rng, temperature)
        for start, texts, each in zip(done.starts, done.texts, rewards, strict=True)
    ]
    return rows, rewards


def _sentiment(data: Path) -> Rows:
    """2,500 pairs: a positive sentence beats a negative one."""
    rng = random.Random(0)
    sides = []
    for name in ("pos", "neg"):
        path = data / "rt-polarity" / f"rt-polarity.{name}"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        lines = [line.strip() for line in lines if line.strip()]
        rng.shuffle(lines)
        sides.append(lines[:2500])
    return [_pair(f"Review {i}: ", *pair) for i, pair in enumerate(zip(*sides, strict=True))]


def _korean(data: Path) -> Rows:
    """Up to 2,500 pairs: a review with 9 or 10 points beats one with 1 to 4."""
    good, bad = list[str](), list[str]()
    for line in (data / "nsmc-korean" / "ratings.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            row = json.loads(line)
            side = good if row["rating"] >= 9 else bad if row["rating"] <= 4 else []
            side.append(row["review"])
    rng = random.Random(0)
    rng.shuffle(good)
    rng.shuffle(bad)
    pairs = [(g, b) for g, b in zip(good, bad, strict=False) if g.strip() and b.strip() and g != b]
    return [_pair(f"영화평 {i}: ", *pair) for i, pair in enumerate(pairs[:2500])]


def _pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _sums(data: Path) -> Rows:
    """Right solutions beat wrong ones."""
    rows: Rows = []
    path = data / "gsm8k-solutions" / "solutions.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        made = [v for v in row.values() if isinstance(v, dict)]
        if len({m["is_correct"] for m in made}) == 2:
            scores = [float(m["is_correct"]) for m in made]
            texts = [m["solution"] for m in made]
            rows.append({"prompt": row["question"] + "\n", "responses": texts, "scores": scores})
    return rows


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
        rows, _ = _world_rows(reference, TRAIN_PREFIXES + EVAL_PREFIXES, seed, 0.0)
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
