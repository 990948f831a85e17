"""Examples that share a prompt become one, and responses are numbered through a data set."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from redpencil.types import Comparison, Example, Response

MAX_GROUPED_RESPONSES = 16
"""Rows with the same prompt join one tree up to this many responses; then a new tree begins, so
that a data set with one prompt for all rows still has more than one tree to put in a batch. A row
that alone has more keeps them all."""


def group_by_prompt(examples: Iterable[Example]) -> list[Example]:
    """Join examples whose prompt ids are equal, in order of first appearance, and number the
    responses of the result (`Example.response_base`)."""
    groups: dict[int, list[Example]] = {}
    examples = list(examples)
    keys = [blake2b(e.prompt_ids.tobytes(), digest_size=16).digest() for e in examples]
    sizes = np.array([len(e.responses) for e in examples], dtype=np.int64)
    first = first_of_group(np.array(keys, dtype="S16"), sizes)
    for at, example in zip(first.tolist(), examples, strict=True):
        groups.setdefault(at, []).append(example)
    return number_responses(join_responses(groups[at]) for at in sorted(groups))


def first_of_group(keys: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(n,) int64: for each example the first one of its group, itself where it begins one.

    keys: (n,) equal where prompts are; sizes: (n,) responses of each. A group takes examples in
    order and is closed when the next would bring it above `MAX_GROUPED_RESPONSES`.
    """
    first = np.arange(len(keys))
    _, prompt, counts = np.unique(keys, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts[prompt] > 1)
    filled: dict[int, tuple[int, int]] = {}
    for at, p, size in zip(
        several.tolist(), prompt[several].tolist(), sizes[several].tolist(), strict=True
    ):
        begin, total = filled.get(p, (at, MAX_GROUPED_RESPONSES))
        begin, total = (begin, total) if total + size <= MAX_GROUPED_RESPONSES else (at, 0)
        first[at] = begin
        filled[p] = begin, total + size
    return first


def number_responses(examples: Iterable[Example]) -> list[Example]:
    """Set `response_base` so that responses count 0, 1, 2, ... through the data set."""
    return list(numbered(examples))


def numbered(examples: Iterable[Example]) -> Iterator[Example]:
    """The same, one after another."""
    base = 0
    for example in examples:
        yield replace(example, response_base=base)
        base += len(example.responses)


def join_responses(group: Sequence[Example]) -> Example:
    """Examples of one prompt as one example with all their responses."""
    if len(group) == 1:
        return group[0]
    responses: list[Response] = []
    comparisons: list[Comparison] = []
    for example in group:
        base = len(responses)
        responses += example.responses
        comparisons += (
            replace(c, chosen=c.chosen + base, rejected=c.rejected + base)
            for c in example.comparisons
        )
    return replace(group[0], responses=tuple(responses), comparisons=tuple(comparisons))
