"""A step that ran out of memory is answered with smaller micro-batches.

Losses are divided by the count of the whole batch, so cutting it smaller changes no result beyond
rounding; the step is computed anew from zero gradients with half the budget.
"""

from redpencil.errors import MemoryExceeded
from redpencil.types import Batch


def smaller_budget(batch: Batch, max_tokens: int) -> int:
    """The budget to go on with after `batch`, cut by `max_tokens`, ran out of memory.

    Raises MemoryExceeded where every prompt has a micro-batch of its own already.
    """
    if all(len(m.examples) == 1 for m in batch.micro_batches):
        largest = max(batch.micro_batches, key=lambda m: m.tokens)
        origin = largest.examples[0].responses[0].origin
        raise MemoryExceeded(
            f"memory ran out and no micro-batch can be cut smaller: the prompt of {origin} with "
            f"its {len(largest.examples[0].responses)} responses has {largest.tokens:,} tokens; "
            "the same command with --activation-checkpointing on goes on from the last checkpoint "
            "and needs less; else begin anew with a shorter --max-length"
        )
    return max(1, min(max_tokens, max(m.tokens for m in batch.micro_batches)) // 2)
