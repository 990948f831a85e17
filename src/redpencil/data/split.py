"""The split into training and evaluation: seeded, by prompt, whatever the order of the rows."""

import hashlib
import json
from collections.abc import Mapping, Sequence
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


def split_by_prompt(
    examples: Sequence[Item], *, fraction: float, seed: int, at_most: int = 1000
) -> tuple[list[Item], list[Item]]:
    """(training, evaluation) examples, each in the given order; no prompt is on both sides.

    fraction of the distinct prompts, rounded, at most `at_most`, go to the evaluation; 0 asks for
    none. Otherwise each side gets at least one prompt if there are two. Which ones depends on
    prompts and seed only: rows may be shuffled or repeated.
    """
    assert 0.0 <= fraction <= 1.0, fraction
    keys = sorted({e.prompt_key for e in examples}, key=lambda k: _rank(k, seed))
    count = 0
    if fraction > 0 and len(keys) >= 2:
        count = max(1, min(round(fraction * len(keys)), at_most, len(keys) - 1))
    held_out = set(keys[:count])
    training = [e for e in examples if e.prompt_key not in held_out]
    return training, [e for e in examples if e.prompt_key in held_out]


def _rank(key: str, seed: int) -> tuple[bytes, str]:
    return hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), key
