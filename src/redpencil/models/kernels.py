"""What a CPU computes with: its matrix kernels, and an allocator that keeps its memory.

torch has two float32 matrix products, its default (MKL or OpenBLAS) and oneDNN's, and which is
faster depends on the CPU's maker and on the shapes. oneDNN's is reached by a switch that *allows*
bfloat16 products; where the CPU has no matrix units for them it computes in full float32, where it
has, it rounds. So both are timed on the model's own shapes, and oneDNN's error is measured against
float64: a rounding path is never taken.
"""

import ctypes
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kernels = Literal["default", "onednn"]

WORTH_PROBING = 1_000_000
"""Weights in matrices below which products are so small that the default is as good or better."""
PROBED_SHAPES = 3
PROBED_TOKENS = 512
SHAPE_SECONDS = 0.2
"""How long a shape is timed, after a first round that compiles; at least three rounds."""
WORTH = 1.05
"""oneDNN must be this many times as fast: a smaller lead is noise."""
EXACT = 8.0
"""oneDNN's largest error may be this many times the default's. Summing in another order makes two
or three of it; products rounded to bfloat16 make ten thousand."""
WIDE = (256, 256)
"""Rows and columns of a weight that fills the matrix units of any CPU: narrower products may be
computed without them, and exactly."""


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """Which matrix kernels were chosen, and why, in words for the screen."""

    name: Kernels
    reason: str


def choose_kernels(model: nn.Module) -> KernelChoice:
    """The faster exact float32 matrix product for this model's shapes on this CPU, by a probe.

    Products of forward and backward over `PROBED_TOKENS` tokens are timed for the shapes that cost
    most, the two kernels in turn. Takes a fraction of a second to a second.
    """
    if not torch.backends.mkldnn.is_available():
        return KernelChoice("default", "oneDNN is not part of this torch")
    shapes = heaviest_shapes(model)
    if sum(rows * columns * count for rows, columns, count in shapes) < WORTH_PROBING:
        return KernelChoice("default", "the float32 matrices are too small to matter")
    rounding, errors = onednn_rounds(model)
    if rounding:
        return KernelChoice("default", f"oneDNN rounds on this CPU ({errors})")
    default, onednn = _seconds(shapes)
    ratio = default / onednn
    if ratio < WORTH:
        return KernelChoice("default", f"oneDNN runs at {ratio:.2f} times its speed ({errors})")
    return KernelChoice("onednn", f"{ratio:.2f} times as fast as the default ({errors})")


def onednn_rounds(model: nn.Module) -> tuple[bool, str]:
    """Whether oneDNN rounds float32 products to bfloat16 on this CPU, by its error on this model's
    shapes and on one that is wide enough for any matrix unit; and both errors in words."""
    shapes = [(rows, columns) for rows, columns, _count in heaviest_shapes(model)]
    default, onednn = _errors([*shapes, WIDE])
    return onednn > EXACT * default, f"largest error {onednn:.1g} against {default:.1g}"


@contextmanager
def matrix_kernels(name: Kernels) -> Iterator[None]:
    """Inside, float32 matrix products on the CPU run on these kernels."""
    before = _switch.fp32_precision
    use_kernels(name)
    try:
        yield
    finally:
        _switch.fp32_precision = before


def use_kernels(name: Kernels) -> None:
    """From here on, float32 matrix products on the CPU run on these kernels."""
    if name == "onednn":
        _bound_kernel_caches()
    _switch.fp32_precision = "bf16" if name == "onednn" else "none"


def _bound_kernel_caches() -> None:
    """Have oneDNN and torch's layer over it forget old kernels: they keep 1,024 each, one for every
    shape of product with its buffers, and no two micro-batches have the same number of tokens. Left
    alone, a run of 250 steps held 3 GB of them. Both read their limit at the first product, so what
    ran before this is bound only if nothing did; what the user has set is kept."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KEPT_KERNELS))


KEPT_KERNELS = 32
"""More than a decoder needs at one number of tokens: three products of each weight's shape."""

_switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


def keep_freed_memory() -> bool:
    """Ask glibc to keep large blocks for the next step instead of returning them to the system.

    A training step frees and asks for the same blocks again and again; by default each comes back
    as fresh pages that the kernel has to clear. Returns whether the C library took the request
    (glibc does, others have no such setting). It holds for the rest of the process.
    """
    return _ask_allocator(_M_MMAP_THRESHOLD, _32_MIB) and _ask_allocator(_M_TRIM_THRESHOLD, _MOST)


def share_heaps() -> bool:
    """Ask glibc for few heaps, a quarter as many as there are cores; returns whether it took that.

    By default eight for each core: what one thread has freed and keeps, another cannot use. Heaps
    that are there stay, so this comes before the threads that read data.
    """
    return _ask_allocator(_M_ARENA_MAX, max(1, (os.cpu_count() or 1) // 4))


def _ask_allocator(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(option, value))  # musl has none


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_32_MIB = 32 * 1024 * 1024  # the most that glibc takes
_MOST = 2**31 - 1


def heaviest_shapes(model: nn.Module) -> list[tuple[int, int, int]]:
    """(rows, columns, how many) of the weight matrices that cost most, embeddings apart."""
    counted = Counter(
        (module.weight.shape[0], module.weight.shape[1])
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.weight.dtype == torch.float32
    )
    costs = [(rows, columns, count) for (rows, columns), count in counted.items()]
    costs.sort(key=lambda shape: shape[0] * shape[1] * shape[2], reverse=True)
    return costs[:PROBED_SHAPES]


def _errors(shapes: list[tuple[int, int]]) -> tuple[float, float]:
    """Largest error of the default and of oneDNN against float64, relative to the largest entry of
    the product."""
    worst: dict[Kernels, float] = {"default": 0.0, "onednn": 0.0}
    for rows, columns in shapes:
        inputs, weight, _grad = _operands(rows, columns)
        some = inputs[:32]  # float64 products are slow
        exact = F.linear(some.double(), weight.double())
        for name in worst:
            with matrix_kernels(name):
                product = F.linear(inputs, weight)[:32]
            error = float((product - exact).abs().max() / exact.abs().max())
            worst[name] = max(worst[name], error)
    return worst["default"], worst["onednn"]


def _seconds(shapes: list[tuple[int, int, int]]) -> tuple[float, float]:
    """Seconds that the default and oneDNN take for these shapes, each as often as it counts."""
    seconds: dict[Kernels, float] = {"default": 0.0, "onednn": 0.0}
    for rows, columns, count in shapes:
        operands = _operands(rows, columns)
        times: dict[Kernels, list[float]] = {"default": [], "onednn": []}
        for name in times:
            with matrix_kernels(name):
                _products(*operands)
        while len(times["onednn"]) < 3 or sum(map(sum, times.values())) < SHAPE_SECONDS:
            for name, taken in times.items():
                with matrix_kernels(name):
                    begun = time.perf_counter()
                    _products(*operands)
                    taken.append(time.perf_counter() - begun)
        for name, taken in times.items():
            seconds[name] += count * statistics.median(taken)
    return seconds["default"], seconds["onednn"]


def _operands(rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (tokens, columns), a weight (rows, columns), a gradient (tokens, rows)."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((PROBED_TOKENS, columns), (rows, columns), (PROBED_TOKENS, rows))
    inputs, weight, grad = (torch.randn(*size, generator=generator) for size in sizes)
    return inputs, weight, grad


def _products(inputs: Tensor, weight: Tensor, grad: Tensor) -> None:
    """What a linear layer computes in a step, forward and backward."""
    F.linear(inputs, weight)
    grad @ weight
    grad.T @ inputs
