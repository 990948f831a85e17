"""Attention written out, and how another way to it is compared (`from softmax import ...`)."""

import torch
from torch import Tensor


def projections(
    tokens: int,
    *,
    heads: int = 4,
    key_heads: int = 2,
    width: int = 6,
    value_width: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """Random query (1, H, N, Dh), key (1, Hkv, N, Dh), value (1, Hkv, N, Dv), Dv = Dh if None, in
    the memory order of a layer's projections."""
    value_width = width if value_width is None else value_width
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(1, tokens, h, d, generator=generator, dtype=dtype)
        .transpose(1, 2)
        .requires_grad_()
        for h, d in ((heads, width), (key_heads, width), (key_heads, value_width))
    ]


def written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """The masked softmax. mask: (N, N) bool, what query i sees of key j."""
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scores = query @ key.transpose(-1, -2) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value


def assert_equal_with_gradients(
    ours: Tensor, theirs: Tensor, inputs: list[Tensor], tolerance: float = 1e-12
) -> None:
    """Values, and the gradients of a fixed random projection of them."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3), dtype=ours.dtype)
    for one, two in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def visible(subtree_end: Tensor, position_ids: Tensor, window: int | None) -> Tensor:
    """The rule of the trees, (q, k) -> bool: k <= q <= subtree_end[k].

    A sliding window of w keeps the last w tokens of the path, the query's own included:
    position[q] - position[k] < w, which is what transformers masks in padded sequences.
    """
    index = torch.arange(len(subtree_end), device=subtree_end.device)
    query, key = index[:, None], index[None, :]
    sees = (key <= query) & (query <= subtree_end[None, :])
    if window is not None:
        sees &= position_ids[:, None] - position_ids[None, :] < window
    return sees
