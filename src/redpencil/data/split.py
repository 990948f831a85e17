"""The split into training and evaluation: seeded, by prompt, whatever the order of the rows."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Any, Protocol, TypeVar

import numpy as np

from redpencil.types import Content


class Keyed(Protocol):
    """Whatever belongs to a prompt."""

    @property
    def prompt_key(self) -> str: ...


Item = TypeVar("Item", bound=Keyed)


def prompt_key(prompt: Content, tools: Sequence[Mapping[str, Any]] | None = None) -> str:
    """A stable name of a prompt, 32 hex digits; a text counts as the same single user turn."""
    if isinstance(prompt, np.ndarray):
        raw = b"ids" + prompt.astype("<i4").tobytes()
    else:
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        raw = json.dumps(
            [[dict(t) for t in turns], [dict(t) for t in tools or ()]], sort_keys=True, default=str
        ).encode()
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


HELD_OUT_PAIRS = 100
"""With so many pairs an accuracy of a half is known to about ten points."""
USUAL_SHARE, MOST_SHARE = 0.05, 0.2


def fraction_of(asked: float | None, pairs: int) -> float:
    """The share of prompts that is held out. Where nobody says one: about `HELD_OUT_PAIRS` pairs
    where the data allow, at most a fifth of them and at least a twentieth."""
    if asked is not None:
        return asked
    wanted = HELD_OUT_PAIRS / max(pairs, 1)
    return round(min(MOST_SHARE, max(USUAL_SHARE, wanted)), 4)


def split_by_prompt(
    examples: Sequence[Item], *, fraction: float, seed: int, at_most: int = 1000
) -> tuple[list[Item], list[Item]]:
    """(training, evaluation) examples, each in the given order; no prompt is on both sides.

    fraction of the distinct prompts, rounded, at most `at_most`, go to the evaluation; 0 asks for
    none. Otherwise each side gets at least one prompt if there are two. Which ones depends on
    prompts and seed only: rows may be shuffled or repeated.
    """
    keys = {e.prompt_key for e in examples}
    held_out = held_out_keys(keys, len(keys), fraction=fraction, seed=seed, at_most=at_most)
    training = [e for e in examples if e.prompt_key not in held_out]
    return training, [e for e in examples if e.prompt_key in held_out]


def held_out_keys(
    keys: Iterable[str], count: int, *, fraction: float, seed: int, at_most: int = 1000
) -> set[str]:
    """Those of `count` distinct prompt keys that go to the evaluation."""
    assert 0.0 <= fraction <= 1.0, fraction
    if fraction == 0 or count < 2:
        return set()
    held_out = max(1, min(round(fraction * count), at_most, count - 1))
    return set(nsmallest(held_out, keys, key=lambda k: _rank(k, seed)))


def _rank(key: str, seed: int) -> tuple[bytes, str]:
    return hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), key
