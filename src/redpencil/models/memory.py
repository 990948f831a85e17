"""How much memory is free, on the GPU or in the machine and its container; and that it ran out."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of a container, version 2 and version 1."""

_CPU_MESSAGES = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory")
"""What torch's RuntimeError says when the CPU's allocator, or MPS's, gives nothing more."""


def free_memory(device: torch.device) -> int | None:
    """Bytes that a run on `device` can still take; None where the system does not tell.

    On CUDA: what the device has free and what torch holds unused. Otherwise what the system calls
    available, within the container's limit; swap does not count.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if not sys.platform.startswith("linux"):
        return None
    rooms = [_available()]
    rooms += [_room_in(Path(limit), Path(used)) for limit, used in _CGROUPS]
    return min((room for room in rooms if room is not None), default=None)


def resident_memory() -> int | None:
    """Bytes of memory that this process holds; None where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return None
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) * 1024 if kilobytes else None


def _room_in(limit: Path, used: Path) -> int | None:
    try:
        most, now = limit.read_text().strip(), used.read_text().strip()
    except OSError:
        return None
    return max(0, int(most) - int(now)) if most.isdigit() and now.isdigit() else None


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


def release_cached_memory() -> None:
    """Drop what only cycles hold, and give blocks that torch keeps for later back to the GPU, so
    that other sizes find room."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
