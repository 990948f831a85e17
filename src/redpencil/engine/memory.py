"""Running out of memory: known when it happens, and answered with smaller micro-batches.

Losses are divided by the count of the whole batch, so cutting it smaller changes no result beyond
rounding; a step that ran out of memory is computed anew from zero gradients with half the budget.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from redpencil.errors import MemoryExceeded
from redpencil.types import Batch, TreeBatch

_CPU_MESSAGES = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory")
"""What torch's RuntimeError says when the CPU's allocator, or MPS's, gives nothing more."""


class BatchTooLarge(Exception):
    """A micro-batch ran out of memory in forward or backward; nothing was updated."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and (
        any(words in str(error) for words in _CPU_MESSAGES) or "out of memory" in str(error)
    )


@contextmanager
def out_of_memory_is_batch_too_large() -> Iterator[None]:
    """Raise BatchTooLarge where the inside runs out of memory. Wrap what may be computed again."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        lines = str(error).splitlines()
        raise BatchTooLarge(lines[0] if lines else type(error).__name__) from None


def smaller_budget(batch: Batch, max_tokens: int) -> int:
    """The budget to go on with after `batch`, cut by `max_tokens`, ran out of memory.

    Raises MemoryExceeded where every prompt has a micro-batch of its own already.
    """
    if all(len(m.examples) == 1 for m in batch.micro_batches):
        largest = max(batch.micro_batches, key=_tokens)
        origin = largest.examples[0].responses[0].origin
        raise MemoryExceeded(
            f"memory ran out and no micro-batch can be cut smaller: the prompt of {origin} with "
            f"its {len(largest.examples[0].responses)} responses has {_tokens(largest):,} tokens; "
            "the same command with --activation-checkpointing on goes on from the last checkpoint "
            "and needs less; else begin anew with a shorter --max-length"
        )
    return max(1, min(max_tokens, max(map(_tokens, batch.micro_batches))) // 2)


def _tokens(micro_batch: TreeBatch) -> int:
    return len(micro_batch.input_ids)


def release_cached_memory() -> None:
    """Drop what only cycles hold, and give blocks that torch keeps for later back to the GPU, so
    that other sizes find room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
