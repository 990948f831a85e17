"""The memory of a training step, found without using any: the step itself, on fake tensors.

A fake tensor (`torch._subclasses.FakeTensorMode`) has a shape, a dtype and a storage without bytes.
The model's own code runs forward and backward on them, through the tree layout, the chunked head,
adapters and activation checkpointing, while every storage is counted from its creation until it
is released. What comes out is what a real step allocates, for any architecture, exactly; not in it
are what the C library and the GPU's allocator lose between blocks, and kernels' own workspaces.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from redpencil.data.tree import lay_trees
from redpencil.errors import ModelError
from redpencil.models.head import backbone
from redpencil.models.vocabulary import gradients_in_place
from redpencil.types import Example, Origin, Response, TreeBatch

Score = Callable[[nn.Module, TreeBatch], Tensor]
"""(model, batch) -> (B,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes of a training step at its peak. The parts add up to the peak.

    activations: what the decoder keeps for backward. head: what comes on top where the peak is, the
    projection on the vocabulary or a layer's backward pass with its recomputation.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int

    @property
    def peak(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.head


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What micro-batches of a data set look like, as far as memory goes.

    scored: scored tokens for each distinct token. longest: tokens of the longest path. feed_last:
    whether the last tokens of responses are fed, too.
    """

    scored: float
    longest: int
    feed_last: bool = False


def training_footprint(
    model: nn.Module,
    score: Score,
    batch: TreeBatch,
    *,
    states: int,
    autocast: torch.dtype | None = None,
) -> Footprint:
    """The peak of a training step whose largest micro-batch is `batch`.

    model: on the meta device, with its adapters and activation checkpointing; it is spent.
    states: float32-sized tensors the optimizer keeps for each trained parameter (AdamW 2, RMSprop
    1). Gradients count as present from the start, as they are from a step's second micro-batch on.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        _materialize(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
    with fake, _autocast(autocast):
        return _counted_step(model, score, batch, states)


def measured_footprint(
    model: nn.Module, score: Score, batch: TreeBatch, *, states: int
) -> Footprint:
    """The same of a step that is taken, for models that fake tensors cannot go through.

    model: a real one in training mode; its gradients are dropped. score: precision included.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        return _counted_step(model, score, batch, states)
    finally:
        model.zero_grad(set_to_none=True)


def _counted_step(model: nn.Module, score: Score, batch: TreeBatch, states: int) -> Footprint:
    """Forward and backward, with every storage that is made counted. Gradients are there."""
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = _nbytes(trained)
    marks: list[int] = []
    resident = [*model.parameters(), *model.buffers(), *(p.grad for p in trained)]
    ending = _at_the_end_of(_before_the_head(model), lambda: marks.append(live.now))
    with _Live(resident) as live, ending, gradients_in_place():
        score(model, batch).sum().backward()
    # Some models go past the module that is called their decoder (Pegasus).
    activations = min(marks[0], live.peak) if marks else live.peak
    return Footprint(
        weights=_nbytes([*model.parameters(), *model.buffers()]),
        gradients=gradients,
        optimizer=states * gradients,
        activations=activations,
        head=live.peak - activations,
    )


def _before_the_head(model: nn.Module) -> nn.Module:
    """The decoder; the whole model where there is none apart: all is counted as activations."""
    try:
        return backbone(model)
    except ModelError:
        return model


def scoring_footprint(
    model: nn.Module,
    score: Score,
    batch: TreeBatch,
    *,
    autocast: torch.dtype | None = None,
) -> tuple[int, int]:
    """(weights, peak of the rest) in bytes of scoring `batch` without gradients.

    model: on the meta device; it is spent.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        _materialize(model)
    resident = [*model.parameters(), *model.buffers()]
    with fake, _Live(resident) as live, _autocast(autocast), torch.no_grad():
        score(model, batch)
    return _nbytes([*model.parameters(), *model.buffers()]), live.peak


def synthetic_batch(tokens: int, shape: Shape) -> TreeBatch:
    """A micro-batch of `tokens` distinct tokens: trees of one prompt and two responses, with
    paths within `shape.longest` and its share of scored tokens."""
    trees = max(1, -(-tokens // max(1, shape.longest)))
    sizes = [tokens // trees + (i < tokens % trees) for i in range(trees)]
    laid = [_example(size, shape) for size in sizes if size]
    return lay_trees(laid, feed_last=shape.feed_last)


def _example(tokens: int, shape: Shape) -> Example:
    """A tree of so many tokens fed: the last token of each response is scored, and not fed unless
    the shape says so."""
    scored, unfed = shape.scored, 0 if shape.feed_last else 1
    wanted = max(2, round(tokens * scored))
    responses = max(2, wanted - tokens + 1, 0)
    lengths = [wanted // responses + (i < wanted % responses) for i in range(responses)]
    if lengths[-1] > 1:  # uneven, so that padded sequences have padding
        lengths[0], lengths[-1] = lengths[0] + 1, lengths[-1] - 1
    prompt = max(1, tokens - sum(length - unfed for length in lengths))
    origin = Origin("synthetic", 1)

    def response(number: int, length: int) -> Response:
        ids = np.zeros(length, dtype=np.int32)
        ids[0] = number  # so that no two responses begin alike
        return Response(ids=ids, scored=np.ones(length, dtype=bool), origin=origin)

    return Example(
        prompt_ids=np.zeros(prompt, dtype=np.int32),
        responses=tuple(response(i, n) for i, n in enumerate(lengths)),
        comparisons=(),
        prompt_key="synthetic",
    )


def _materialize(model: nn.Module) -> None:
    """Put fake CPU tensors in the place of meta ones; tied ones stay tied."""
    made: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in made:
                    empty = torch.empty_like(parameter, device="cpu")
                    made[parameter] = nn.Parameter(empty, parameter.requires_grad)
                module._parameters[name] = made[parameter]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")


def _nbytes(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _autocast(dtype: torch.dtype | None) -> Any:
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)


@contextmanager
def _at_the_end_of(module: nn.Module, fn: Callable[[], None]) -> Iterator[None]:
    """Call `fn` after each forward of a module."""
    handle = module.register_forward_hook(lambda *_: fn())
    try:
        yield
    finally:
        handle.remove()


class _Live(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still held; and their peak."""

    def __init__(self, resident: Iterable[Tensor | None]) -> None:
        super().__init__()
        self.now = self.peak = 0
        # What was there before is not counted, nor are views of it.
        self._held = {t.untyped_storage()._cdata: 0 for t in resident if t is not None}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # two calls of three, and nothing is made
            return func(*args, **(kwargs or {}))
        if func is torch.ops.aten._grouped_mm.default:
            out = _grouped_mm(*args, **(kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._held:
            self._held[key] = storage.nbytes()
            self.now += self._held[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.now -= self._held.pop(key)


def _grouped_mm(left: Tensor, right: Tensor, offs: Tensor | None = None, **_: Any) -> Tensor:
    """The shape of a product by groups (experts): fake tensors know it for bfloat16 only."""
    if left.dim() == 2 and right.dim() == 2:
        assert offs is not None, "groups of columns need their ends"
        return left.new_empty(len(offs), left.shape[0], right.shape[1])
    if left.dim() == 3 and right.dim() == 3:
        return left.new_empty(left.shape[0], left.shape[1], right.shape[2])
    return left.new_empty(left.shape[-2], right.shape[-1])
