"""elementwise.c from Python: calls of it on arrays.

Arrays are float32 and C-contiguous, rows a multiple of VECTOR wide.
"""

import ctypes

import numpy as np

from redpencil.models.native.library import addresses, built


def gate(**arrays: np.ndarray) -> None:
    """Given `gate` and `up`, fill `product` with silu(gate) * up; given `grad`, of the product, as
    well, fill `grad_gate` and `grad_up`. All of one shape."""
    built().compute("gated", _Gated(**addresses(**arrays), count=arrays["gate"].size))


def norm(eps: float, **arrays: np.ndarray) -> None:
    """Given `x` (..., D) and `weight` (D,), fill `out` with weight * x * scale and `scale` (...,)
    with 1 / sqrt(mean(x^2) + eps). Given `grad`, of `out`, and `scale` as well, fill `grad_x` and,
    if it is given, `grad_weight`, (pieces, D), to be summed."""
    rows, width = arrays["scale"].size, arrays["x"].shape[-1]
    built().compute("rms_norm", _Norm(**addresses(**arrays), rows=rows, width=width, eps=eps))


def pieces(rows: int, width: int) -> int:
    """In how many pieces rows are dealt out: those of the gradient of a norm's weight."""
    return built().count("pieces", rows, width)


def rotate(*, back: bool, **arrays: np.ndarray) -> None:
    """Given `x` (N, H, D), `cosine` and `sine` (N, D), fill `out` with x * cosine + (-x2, x1) *
    sine, x1 and x2 the halves of x; back: with the gradient of x where `x` is that of `out`."""
    sizes = dict(zip(("tokens", "heads", "width"), arrays["x"].shape, strict=True))
    built().compute("rotate", _Rotation(**addresses(**arrays), **sizes, back=back))


class _Gated(ctypes.Structure):
    """`Gated` of the C file, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("gate", "up", "grad")),
        *((name, ctypes.c_void_p) for name in ("product", "grad_gate", "grad_up")),
        ("count", ctypes.c_long),
    )


class _Norm(ctypes.Structure):
    """`Norm` of the C file, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "grad", "scale")),
        *((name, ctypes.c_void_p) for name in ("out", "grad_x", "grad_weight")),
        *((name, ctypes.c_long) for name in ("rows", "width")),
        ("eps", ctypes.c_float),
    )


class _Rotation(ctypes.Structure):
    """`Rotation` of the C file, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "cosine", "sine", "out")),
        *((name, ctypes.c_long) for name in ("tokens", "heads", "width")),
        ("back", ctypes.c_int),
    )
