"""Attention over trees on a GPU by FlexAttention (Dong et al. 2024, arXiv 2412.05496).

One fused kernel attends over a whole micro-batch: it skips blocks of 128 x 128 token pairs in which
nothing is visible, and evaluates the rule of the trees only in blocks it cuts through. Which block
is which follows from `subtree_end` on the device; a mask of token pairs never exists.

The kernel is compiled for each length, so lengths are rounded up to few sizes. The rounding stays
in here: padding the whole micro-batch would make every linear layer compute on padding (up to
half as many tokens again), while here it costs a copy of queries, keys and values, and nothing
in the kernel, where a padding token sees itself only.
"""

import functools
import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128
"""Tokens along a side of a block: what FlexAttention's kernels are tuned for."""

COMPILED_VARIANTS = 128
"""Kernels kept, one for each of length, window, cap, and with or without gradient. torch's own
limit of 8 is made for functions that should need one."""

SMALLEST_HEAD = 16
"""Triton's matrix product takes no smaller side; torch's lowering refuses it."""


def padded_length(tokens: int) -> int:
    """The length a micro-batch of so many tokens is rounded up to.

    1, 2, 3, 4, 6, 8, 12, 16, ... blocks: two sizes an octave. Powers of two are sizes, so a usual
    token budget, filled, is not padded.
    """
    blocks = max(1, -(-tokens // BLOCK))
    power = 1 << (blocks - 1).bit_length()
    return BLOCK * (power * 3 // 4 if blocks <= power * 3 // 4 else power)


def tree_block_mask(subtree_end: Tensor, position_ids: Tensor, window: int | None) -> BlockMask:
    """The rule of the trees for FlexAttention, on the tensors' device, without waiting for it.

    subtree_end, position_ids: (N,). The mask is for `padded_length(N)` tokens. window: sliding
    window in tokens of the path, or None. With block row Q = [q0, q1) and block column K below it,

        something is visible  iff  max subtree_end[K] >= q0      (then q0 itself sees that key),
        everything is         iff  min subtree_end[K] >= q1 - 1,

    and on the diagonal always something and never everything. A window can only take away; blocks
    that are surely out of it by their smallest and largest positions go, those surely inside are
    full, and the rest is left to the rule, which is evaluated for each pair.
    """
    tokens = len(subtree_end)
    padded = padded_length(tokens)
    index = torch.arange(padded, device=subtree_end.device, dtype=torch.int32)
    ends = torch.cat([subtree_end.to(torch.int32), index[tokens:]])
    positions = F.pad(position_ids.to(torch.int32), (0, padded - tokens))
    first, last = index[::BLOCK, None], index[BLOCK - 1 :: BLOCK, None]
    lowest_end, highest_end = ends.view(-1, BLOCK).aminmax(dim=1)
    below = first > first.T
    some = (below & (highest_end >= first)) | (first == first.T)
    every = below & (lowest_end >= last)
    if window is not None:
        nearest, farthest = _distances(positions)
        some &= nearest < window
        every &= farthest < window
    return BlockMask.from_kv_blocks(
        *_listed(some & ~every),
        *_listed(every),
        BLOCK_SIZE=BLOCK,
        mask_mod=tree_rule(ends, positions, window),
    )


def _distances(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds (block rows, block columns) of position[q] - position[k] over the pairs of a block."""
    lowest, highest = positions.view(-1, BLOCK).aminmax(dim=1)
    return lowest[:, None] - highest, highest[:, None] - lowest


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) bool as FlexAttention wants it: (1, 1, rows) how many columns each row has,
    and (1, 1, rows, columns) which these are, in order; what follows them is not read."""
    columns = blocks.to(torch.int32).argsort(dim=1, descending=True, stable=True)
    return blocks.sum(dim=1, dtype=torch.int32)[None, None], columns.to(torch.int32)[None, None]


Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, query, key) -> bool, 0-d each."""


def tree_rule(subtree_end: Tensor, position_ids: Tensor, window: int | None) -> Rule:
    """k <= q <= subtree_end[k], and the window: never written out as a matrix."""

    if window is None:

        def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (k <= q) & (q <= subtree_end[k])

        return rule

    def rule_in_window(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q <= subtree_end[k]) & (position_ids[q] - position_ids[k] < window)

    return rule_in_window


@functools.cache
def _capped(softcap: float) -> Callable[..., Tensor]:
    """cap * tanh(score / cap), after scaling, as Gemma 2 does it."""

    def capped(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def flex_tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: BlockMask,
    scale: float | None,
    softcap: float | None,
) -> Tensor:
    """Attention of every token over its path, in one call for the micro-batch.

    query: (1, H, N, Dh). key: (1, Hkv, N, Dh), value: (1, Hkv, N, Dv), H a multiple of Hkv. blocks:
    the mask for `padded_length(N)` tokens. scale: None for 1 / sqrt(Dh). Returns (1, H, N, Dv), in
    the autocast dtype where autocast is on.
    """
    tokens, padded = query.shape[2], padded_length(query.shape[2])
    assert blocks.seq_lengths == (padded, padded), (blocks.seq_lengths, padded)
    dtype = _common_dtype(query, key, value)
    query, key, value = (_padded(t.to(dtype), padded) for t in (query, key, value))
    # The limit is raised for this call only: it is a setting of the whole process.
    with torch._dynamo.config.patch(recompile_limit=COMPILED_VARIANTS):
        out: Tensor = kernel()(
            query,
            key,
            value,
            score_mod=None if softcap is None else _capped(softcap),
            block_mask=blocks,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return out[:, :, :tokens]


def _common_dtype(query: Tensor, key: Tensor, value: Tensor) -> torch.dtype:
    """The kernel's backward wants one dtype. Under autocast rotary embeddings make queries and keys
    float32 again where the residual stream is, while values come in the autocast dtype."""
    device = query.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return functools.reduce(torch.promote_types, (query.dtype, key.dtype, value.dtype))


def _padded(tensor: Tensor, length: int) -> Tensor:
    """(1, H, N, Dh) -> (1, H, length, Dh), always dense in the memory order of the projections
    (1, N, H, Dh): one layout, one kernel, and an output that needs no copy."""
    tensor = tensor.transpose(1, 2)
    missing = length - tensor.shape[1]
    tensor = F.pad(tensor, (0, 0, 0, 0, 0, missing)) if missing else tensor.contiguous()
    return tensor.transpose(1, 2)


@functools.cache
def kernel() -> Callable[..., Tensor]:
    """FlexAttention compiled, a length at a time: as a constant it makes the faster kernel.

    fullgraph: an error rather than whole scores in memory, should torch be kept from compiling."""
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def refusal(query: Tensor, value: Tensor) -> str | None:
    """Why the fused kernel cannot be used for these heads ("as ..."); None where it can.

    query: (1, H, N, Dh). value: (1, Hkv, N, Dv). Widths from 16 go, equal or not.
    """
    if min(query.shape[-1], value.shape[-1]) < SMALLEST_HEAD:
        return f"as FlexAttention needs heads of {SMALLEST_HEAD} or more"
    if query.dtype == torch.float64:
        return "as FlexAttention computes in float32 at most"
    return _no_compiler(query.device)


@functools.cache
def _no_compiler(device: torch.device) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "as FlexAttention needs Triton, which is not installed"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return "as FlexAttention needs a GPU of compute capability 7.0"
    return None
