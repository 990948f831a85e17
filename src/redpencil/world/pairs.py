"""Rows of the review world: reviews to learn from, prefixes to complete, labelled preferences.

Reviews for SFT and prefixes for preferences and for evaluation come from separate random streams;
a set of prefixes has no prefix twice.
"""

import math
import random
import re
from collections.abc import Collection, Sequence
from itertools import combinations
from typing import Any

from redpencil.world.grammar import review

MIN_PREFIX, MAX_PREFIX = 2, 8
"""Length of a prefix in words."""

_WORD = re.compile(r"[^\w]*\w+")


def split_review(text: str, rng: random.Random) -> tuple[str, str]:
    """`text` after 2 to 8 words: ("The plot", " was dull, but ..."), which joined are `text`."""
    ends = [match.end() for match in _WORD.finditer(text)]
    cut = ends[rng.randint(MIN_PREFIX, min(MAX_PREFIX, len(ends) - 1)) - 1]
    return text[:cut], text[cut:]


def sft_rows(n: int, seed: int) -> list[dict[str, str]]:
    """`n` reviews as {"prompt": beginning, "completion": the rest, with its leading space}."""
    rng = random.Random(f"sft {seed}")
    cut = (split_review(review(rng), rng) for _ in range(n))
    return [{"prompt": prompt, "completion": completion} for prompt, completion in cut]


def prefixes(n: int, seed: int, exclude: Collection[str] = ()) -> list[str]:
    """`n` different beginnings of reviews, none of them in `exclude`.

    Prefixes for training and for evaluation: draw the second set with the first as `exclude`.
    """
    rng = random.Random(f"prefixes {seed}")
    taken = set(exclude)
    found: list[str] = []
    while len(found) < n:
        prefix, _ = split_review(review(rng), rng)
        if prefix not in taken:
            taken.add(prefix)
            found.append(prefix)
    return found


def label_pairs(
    prompt: str,
    completions: Sequence[str],
    rewards: Sequence[float],
    rng: random.Random,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """One row of preferences: every pair of completions is judged once, as people would.

    The winner of (i, j) is drawn from the Bradley-Terry model on the true rewards (paper Eq. 1):
    i wins with probability 1 / (1 + exp(-(rewards[i] - rewards[j]) / temperature)). Temperature 0
    always prefers the higher reward (equal rewards: no comparison). Identical completions are not
    compared. Returns {"prompt", "responses": [...], "comparisons": [[winner, loser], ...]}.
    """
    assert len(completions) == len(rewards), (len(completions), len(rewards))
    assert temperature >= 0, temperature
    comparisons: list[list[int]] = []
    for i, j in combinations(range(len(completions)), 2):
        if completions[i] == completions[j]:
            continue
        gap = rewards[i] - rewards[j]
        if temperature == 0:
            if gap:
                comparisons.append([i, j] if gap > 0 else [j, i])
            continue
        i_wins = rng.random() < preference(gap / temperature)
        comparisons.append([i, j] if i_wins else [j, i])
    return {"prompt": prompt, "responses": list(completions), "comparisons": comparisons}


def preference(gap: float) -> float:
    """Bradley-Terry probability that a response wins which is better by `gap` (paper Eq. 1)."""
    if gap >= 0:
        return 1.0 / (1.0 + math.exp(-gap))
    return math.exp(gap) / (1.0 + math.exp(gap))
