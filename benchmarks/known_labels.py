"""Pairs whose labels are known to be right, for benchmarks that flip some of them on purpose."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redpencil.data.records import records_from_rows
from redpencil.frontier.review_world import complete
from redpencil.use.api import load
from redpencil.use.pair_features import PairSet, model_features, pair_set, word_features
from redpencil.use.suspects import HIDDEN, WORDS
from redpencil.world.pairs import label_pairs, prefixes
from redpencil.world.settings import DemoSettings

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Pairs whose labels are right, with what judges them. gaps: (T,) log-odds of each label by
    the truth, where labels are drawn from it; None where they are certain."""

    name: str
    pairs: PairSet
    features: Mapping[str, np.ndarray]
    gaps: np.ndarray | None = None


def cases(data: Path, reference: str, encoder: str | None) -> Sequence[Callable[[], Case]]:
    """Makers of each case: one set of pairs, and what judges it."""
    stories = str(data / "stories260K")

    def world(temperature: float) -> Case:
        rows, rewards = world_rows(reference, 600, 0, temperature)
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


def world_rows(
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
