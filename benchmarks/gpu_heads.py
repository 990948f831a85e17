"""Heads compared: log-probabilities of S tokens from hidden states, forward and backward.

redpencil's `chunked_logps` against Cut Cross-Entropy (arXiv 2411.09009) and Liger's fused linear
cross-entropy, where these are installed. Preference objectives weight every token's gradient on its
own, so a head must return S values and take S gradients; whether it does so rightly is measured.
"""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from redpencil.scores.chunked import chunked_logps

Head = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden (S, D), weight (V, D), targets (S,)) -> log-probabilities (S,)."""


@dataclass(frozen=True, slots=True)
class HeadResult:
    """seconds: median, forward and backward. error: largest deviation of value and gradients from
    float32, against the largest entry. peak: bytes beyond the inputs, None on a CPU. skipped: why
    there is nothing."""

    name: str
    seconds: float | None = None
    error: float | None = None
    peak: int | None = None
    skipped: str = ""


def whole_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight).float()
    return logits.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]


def chunked_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return chunked_logps(hidden, weight, None, targets)


def cut_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from cut_cross_entropy import linear_cross_entropy

    return -linear_cross_entropy(hidden, weight, targets, reduction="none").float()


def liger_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return -LigerFusedLinearCrossEntropyLoss(reduction="none")(weight, hidden, targets).float()


HEADS: dict[str, tuple[Head, str | None]] = {
    "redpencil, in blocks": (chunked_head, None),
    "whole logits": (whole_head, None),
    "cut-cross-entropy": (cut_head, "cut_cross_entropy"),
    "Liger fused linear cross-entropy": (liger_head, "liger_kernel"),
}
"""Name -> head, and the package it needs."""


def compare_heads(
    device: torch.device,
    dtype: torch.dtype,
    *,
    tokens: int,
    width: int,
    vocabulary: int,
    rounds: int,
) -> list[HeadResult]:
    """Every head on the same random inputs; the weight's gradient is asked for, as in training."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    inputs = [random(tokens, width).to(dtype), (random(vocabulary, width) * width**-0.5).to(dtype)]
    targets = torch.randint(vocabulary, (tokens,), device=device, generator=generator)
    upstream = random(tokens)
    exact = _run(whole_head, [t.float() for t in inputs], targets, upstream)
    return [_measure(name, inputs, targets, upstream, exact, rounds) for name in HEADS]


def _measure(
    name: str,
    inputs: list[Tensor],
    targets: Tensor,
    upstream: Tensor,
    exact: list[Tensor],
    rounds: int,
) -> HeadResult:
    head, package = HEADS[name]
    if package is not None and importlib.util.find_spec(package) is None:
        return HeadResult(name, skipped=f"{package} is not installed")
    on_gpu = targets.device.type == "cuda"
    seconds = []
    try:
        found = _run(head, inputs, targets, upstream)
        error = max(_deviation(a, b) for a, b in zip(found, exact, strict=True))
        del found
        for _ in range(rounds):
            before = torch.cuda.memory_allocated() if on_gpu else 0
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            begun = time.perf_counter()
            _run(head, inputs, targets, upstream)
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
    except Exception as failure:  # another's kernel may fail in ways of its own; the table says so
        return HeadResult(name, skipped=f"failed: {(str(failure).splitlines() or ['?'])[0][:120]}")
    peak = torch.cuda.max_memory_allocated() - before if on_gpu else None
    return HeadResult(name, sorted(seconds)[len(seconds) // 2], error, peak)


def _run(head: Head, inputs: list[Tensor], targets: Tensor, upstream: Tensor) -> list[Tensor]:
    """Values and the gradients of hidden states and weight."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    logps = head(*leaves, targets)
    return [logps.detach(), *torch.autograd.grad(logps, leaves, upstream.to(logps.dtype))]


def _deviation(found: Tensor, exact: Tensor) -> float:
    return float((found.float() - exact).abs().max() / exact.abs().max())


def heads_table(results: list[HeadResult]) -> str:
    """Markdown."""
    lines = ["| head | ms | error | peak GB |", "| --- | --- | --- | --- |"]
    for r in results:
        if r.skipped:
            lines.append(f"| {r.name} | – | – | {r.skipped} |")
        else:
            peak = "–" if r.peak is None else f"{r.peak / 1e9:.2f}"
            lines.append(f"| {r.name} | {1000 * r.seconds:.2f} | {r.error:.1g} | {peak} |")
    return "\n".join(lines)
