"""Scoring without gradients goes on in halves where memory runs out."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from redpencil.console import warn
from redpencil.data.packing import halves
from redpencil.errors import MemoryExceeded
from redpencil.models.memory import (
    BatchTooLarge,
    out_of_memory_is_batch_too_large,
    release_cached_memory,
)
from redpencil.types import TreeBatch

Result = TypeVar("Result")


def in_memory(
    batches: Iterable[TreeBatch], compute: Callable[[TreeBatch], Result]
) -> Iterator[tuple[TreeBatch, Result]]:
    """Each micro-batch with what `compute` makes of it; one that does not fit the memory as two,
    four, ... that do, and so do those after it that are as large. What belongs to a response does
    not depend on that beyond rounding.

    Raises MemoryExceeded where a single example does not fit.
    """
    too_large: float = math.inf
    for batch in batches:
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            if part.tokens >= too_large and len(part.examples) > 1:
                waiting += reversed(halves(part))
                continue
            ran_out = None
            try:
                with out_of_memory_is_batch_too_large():
                    result = compute(part)
            except BatchTooLarge as error:
                ran_out = str(error)
            if ran_out is None:
                yield part, result
            else:  # out here what the attempt had computed is gone
                _say_or_refuse(part, ran_out)
                release_cached_memory()
                too_large = part.tokens
                waiting.append(part)


def _say_or_refuse(batch: TreeBatch, why: str) -> None:
    if len(batch.examples) == 1:
        example = batch.examples[0]
        raise MemoryExceeded(
            f"memory ran out ({why}), and the prompt of {example.responses[0].origin} with its "
            f"{len(example.responses)} responses, {batch.tokens:,} tokens, cannot be cut "
            "smaller; use a shorter --max-length"
        )
    warn(
        f"memory ran out ({why}) over a micro-batch of {batch.tokens:,} tokens: those as large "
        "are scored in halves"
    )
