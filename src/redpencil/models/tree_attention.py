"""What an attention layer computes while trees are laid out.

There are four ways, all exact: redpencil's own kernel (CPU, compiled on the machine), flash
attention by runs (CPU), FlexAttention over blocks (CUDA), and masked calls, run by run (anything).
`choose_path` is the only place that picks by device and heads. What the own kernel does not do
(windows that bite, soft-caps, very long paths), flash attention does.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redpencil.errors import ModelError
from redpencil.models.calls import masked_calls
from redpencil.models.flash_cpu import flash_tree_attention
from redpencil.models.flex import flex_tree_attention, refusal
from redpencil.models.last_layer import is_last
from redpencil.models.layout import PathName, TreeLayout
from redpencil.models.native.attention import compiled_tree_attention, fits
from redpencil.models.native.check import refusal as compiled_refusal


def tree_attention(
    layout: TreeLayout,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What the attention interface asks for: (1, H, N, Dh) in, (1, N, H, Dh) and None out."""
    assert query.shape[0] == 1 and query.shape[2] == key.shape[2] == layout.tokens, (
        f"queries {tuple(query.shape)} and keys {tuple(key.shape)} inside the layout of "
        f"{layout.tokens} tokens"
    )
    _refuse_unknown(module, dropout, kwargs)
    layout.calls += 1
    if sliding_window is not None:
        layout.windows.add(sliding_window)
    window = sliding_window if sliding_window and layout.longest_path > sliding_window else None
    path, way = choose_path(query, value)
    path = layout.path or path
    if path == "compiled" and (why_not := _beyond_the_kernel(layout, query, window, softcap)):
        path, way = "flash", f"flash attention by runs, as {why_not}"
    layout.ways.add(way)
    match path:
        case "compiled":
            runs = layout.query_runs(is_last(module))
            out = compiled_tree_attention(query, key, value, runs, scaling)
        case "flash":
            runs = layout.query_runs(is_last(module))
            out = flash_tree_attention(query, key, value, runs, scaling, window, softcap)
        case "flex":
            blocks = layout.block_mask(window)
            out = flex_tree_attention(query, key, value, blocks, scaling, softcap)
        case "dense":
            out = _run_by_run(layout, query, key, value, window, scaling, softcap)
    return out.transpose(1, 2).contiguous(), None


def choose_path(query: Tensor, value: Tensor) -> tuple[PathName, str]:
    """How attention is computed for heads like these, and the same in words with the reason.

    query: (1, H, N, Dh). value: (1, Hkv, N, Dv).
    """
    why_not: str | None
    match query.device.type:
        case "cpu" if value.shape[-1] <= query.shape[-1]:
            return _on_a_cpu(query)
        case "cpu":
            why_not = "as values are wider than keys"
        case "cuda":
            why_not = refusal(query, value)
            if why_not is None:
                return "flex", "FlexAttention over blocks"
        case device:
            why_not = f"as {device} has no other kernel with a backward pass"
    return "dense", f"masked calls by runs, {why_not}"


def _on_a_cpu(query: Tensor) -> tuple[PathName, str]:
    why_not = "the model is in float64" if query.dtype == torch.float64 else compiled_refusal()
    if why_not is None:
        return "compiled", "redpencil's kernel, compiled for this CPU"
    return "flash", f"flash attention by runs, as {why_not}"


def _beyond_the_kernel(
    layout: TreeLayout, query: Tensor, window: int | None, softcap: float | None
) -> str | None:
    """Why the compiled kernel cannot do this layer of this micro-batch; None if it can."""
    if softcap is not None:
        return "scores are soft-capped"
    if window is not None:
        return "a sliding window bites"
    return None if fits(layout.longest_path, query) else "paths are very long"


def _refuse_unknown(module: nn.Module, dropout: float, kwargs: dict[str, Any]) -> None:
    """What would change attention and is not known here must not be dropped silently."""
    name = type(module).__name__
    if dropout:
        raise ModelError(f"{name} uses attention dropout {dropout}; switch dropout off to train")
    for argument, words in (("s_aux", "attention sinks"), ("position_bias", "a position bias")):
        if kwargs.get(argument) is not None:
            raise ModelError(f"{name} uses {words}, which trees do not support")
    causal = kwargs.get("is_causal")
    if causal is False or (causal is None and getattr(module, "is_causal", True) is False):
        raise ModelError(f"{name} attends in both directions, which trees do not support")


def _run_by_run(
    layout: TreeLayout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    outs = []
    for call in masked_calls(layout.runs, window):
        assert call.mask is not None, f"tokens {call.start} to {call.end} have no mask"
        q = query[:, :, call.start : call.end]
        k, v = (torch.cat([t[:, :, a:b] for a, b in call.keys], dim=2) for t in (key, value))
        outs.append(_dense_attention(q, k, v, call.mask.to(q.device), scaling, softcap))
    return torch.cat(outs, dim=2)


def _dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """n queries over m keys under their (n, m) mask: for windows, caps, devices without flash."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * scaling / softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return weights.to(value.dtype) @ value
