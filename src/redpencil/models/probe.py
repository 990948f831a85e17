"""Which ways of scoring give a model's own numbers, measured on a probe of a few dozen tokens.

Two trees with siblings that begin alike go through the model laid flat and as plain sequences. Five
things are asked, before anything is trained:

- Is the model under our attention's name, outside of trees, the same to the bit? Some models ask
  for the names "eager" and "sdpa" in their code, and leave a mask out under any other.
- Does every attention layer come to redpencil, with its window?
- Are the numbers those of plain sequences, but for rounding?
- Do a response's numbers stay, to the bit, when a sibling and the other tree change? Rounding of
  half precision would hide what leaks past attention, through a convolution, a scan or a router.
- Do a sequence's numbers stay when it is padded, or else in a batch of equal lengths?

A model that selects which keys a token attends to is given one sequence at a time: its numbers jump
where two keys are nearly as good and rounding decides.

Windows and chunks are longer than a probe may be: they are shortened for it, all by as much.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from redpencil.errors import ModelError
from redpencil.models.attention import install, model_configs, uninstall
from redpencil.models.head import gives_rewards, unwrap
from redpencil.models.layout import TreeLayout, laid_out
from redpencil.models.probe_scores import (
    LOGPS,
    REWARDS,
    Values,
    cut_to_one_length,
    probe_trees,
)
from redpencil.models.quiet import said
from redpencil.types import TreeBatch

TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4, torch.float16: 0.03, torch.bfloat16: 0.15}
"""How far tree and plain log-probabilities of the probe may lie apart, by the weights' dtype: the
farthest token; in half precision, where rounding sends single tokens to other experts, the median
one."""

PADDED = {torch.float64: 1e-8, torch.float32: 2e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
"""The same for a sequence that is padded, relative to the largest number where that is above 1.
Nothing is lost where rounding is taken for more: equal lengths are as exact."""

EXPERTS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 0.04}
"""How far a response's number may move with what lies beside it where tokens are sent to experts,
whose matrices then have other shapes and round otherwise. Elsewhere it may not move at all."""

SHORT = 6
"""The shortest window, chunk or choice of keys while the probe runs."""

_REACH = re.compile(
    r"sliding_window(_size)?|window_size|attention_chunk_size"
    r"|((lsh|local)_attn_)?chunk_length"
)
"""Names, in configs and on modules, of how many keys a query sees. No weight's shape depends on
them."""

Sharing = Literal["any", "one length", "nothing"]
"""Which sequences may share a call of a model: any, padded; those of one length; none."""

_SHARING = "_redpencil_sharing"
"""Mark on a model for which that was measured."""


def takes_trees(model: nn.Module) -> tuple[bool, str]:
    """Whether trees can be laid flat for this model, measured, and the reason in words.

    Where they can, the model has our attention's name from here on; where not, its own.
    """
    causal = unwrap(model)
    kind = causal.config.model_type
    uninstall(causal)
    refusal = _cannot(causal)
    if refusal is None:
        try:
            with _at_rest(model), short_reach(causal):
                refusal, reason = _tried(model)
        except Exception as error:  # a model's own code, given what it may not expect
            if isinstance(error, torch.OutOfMemoryError):
                raise
            refusal = f"{kind} could not run a probe tree: {said(error)}"
    if refusal is None:
        return True, reason
    uninstall(causal)
    return False, refusal


def _cannot(causal: Any) -> str | None:
    """Why a look at the model is enough to say no."""
    kind = causal.config.model_type
    if causal.config.is_encoder_decoder:
        return f"{kind} is an encoder-decoder"
    if _selects_keys(causal):
        return f"{kind} selects which keys a token attends to"
    if not causal._can_set_attn_implementation():
        return f"{kind} does not call the attention interface"
    return None


def _tried(model: nn.Module) -> tuple[str | None, str]:
    """(why trees are refused or None, what was measured)."""
    causal = unwrap(model)
    batch, changed, stays = probe_trees(causal)
    rewards = gives_rewards(model)
    plain_of, _, tree_of = REWARDS if rewards else LOGPS
    plain = plain_of(model, batch)
    install(model)
    if not _distance(plain_of(model, batch), plain) <= _jitter(causal):
        return f"{causal.config.model_type} asks for its attention by name", ""
    read = batch.ending if rewards else batch.predicting
    with laid_out(batch, read) as layout:
        tree = tree_of(model, batch)
    what = "rewards" if rewards else "log-probabilities"
    apart = (tree - plain).abs()
    difference = float(apart.median() if causal.dtype.itemsize == 2 else apart.max())
    refusal = _unlike(causal, layout, difference, what)
    if refusal is None and not _apart(model, tree_of, changed, batch, tree, stays):
        refusal = f"a response's {what} change with what lies beside it in a tree"
    agree = f"tree and plain {what} agree to {difference:.1g} on a probe"
    return refusal, f"{agree}; attention: {'; '.join(sorted(layout.ways))}"


def _unlike(causal: Any, layout: TreeLayout, difference: float, what: str) -> str | None:
    config = causal.config.get_text_config()
    kind, layers = config.model_type, config.num_hidden_layers
    if layout.calls == 0:
        return f"{kind} does not call the attention interface"
    if layout.calls != layers:
        return f"{layout.calls} of {layers} layers of {kind} call the attention interface"
    if not layout.masked_windows <= layout.windows:
        return f"{kind} has a sliding window or chunks that only its mask knows"
    if not difference <= TOLERANCE.get(causal.dtype, 0.0):
        return f"tree and plain {what} differ by {difference:.2g} on a probe"
    return None


def _apart(
    model: nn.Module,
    tree_of: Values,
    changed: TreeBatch,
    batch: TreeBatch,
    before: Tensor,
    stays: Tensor,
) -> bool:
    """Whether what did not change between two batches stayed."""
    if changed.segments != batch.segments:
        return False  # a vocabulary of two words
    with laid_out(changed, changed.ending if gives_rewards(model) else changed.predicting):
        after = tree_of(model, changed)
    return _distance(after[stays], before[stays]) <= _jitter(unwrap(model))


def _jitter(causal: Any) -> float:
    """How far equal work may come out apart."""
    routed = any("expert" in name or "router" in name for name, _ in causal.named_modules())
    return EXPERTS.get(causal.dtype, 0.0) if routed else 0.0


def sharing(model: nn.Module) -> Sharing:
    """Which of this model's sequences may share a call: measured at the first question.

    Raises ModelError where the model gives other numbers each time it is asked.
    """
    causal = unwrap(model)
    known: Sharing | None = getattr(causal, _SHARING, None)
    if known is None:
        dtype = causal.dtype
        half = dtype.itemsize == 2  # some compute in float32 in between and need autocast for it
        cast = torch.autocast(causal.device.type, dtype=dtype if half else None, enabled=half)
        with _at_rest(model), short_reach(causal), cast:
            known = _measured_sharing(model)
        setattr(causal, _SHARING, known)
    return known


def _measured_sharing(model: nn.Module) -> Sharing:
    causal = unwrap(model)
    kind = causal.config.model_type
    plain_of, padded_of, _ = REWARDS if gives_rewards(model) else LOGPS
    try:
        batch, _, _ = probe_trees(causal)
        alone = plain_of(model, batch)
        again = plain_of(model, batch)
    except Exception as error:  # a model's own code
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelError(f"{kind} cannot score a short text: {said(error)}") from None
    if _far(again, alone, causal.dtype):
        raise ModelError(
            f"{kind} gives other numbers each time it is asked (by up to "
            f"{_distance(again, alone):.2g}), so no preference can be measured with it"
        )
    if _selects_keys(causal):
        return "nothing"
    if _stays(padded_of, model, batch, alone):
        return "any"
    cut = cut_to_one_length(batch)
    return "one length" if _stays(padded_of, model, cut, plain_of(model, cut)) else "nothing"


def _stays(padded_of: Values, model: nn.Module, batch: TreeBatch, alone: Tensor) -> bool:
    """Whether sequences give the same numbers side by side, padded where one is shorter."""
    try:
        beside = padded_of(model, batch)
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False
    return not _far(beside, alone, unwrap(model).dtype)


def _selects_keys(causal: Any) -> bool:
    """Whether some layer chooses the keys of each token by their content."""
    return any(
        "indexer" in name.rpartition(".")[2] or "keep_window_size" in vars(module)
        for name, module in causal.named_modules()
    )


def _far(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    return not _distance(one, other) <= PADDED.get(dtype, 0.0) * max(1.0, float(other.abs().max()))


def _distance(one: Tensor, other: Tensor) -> float:
    """Largest difference; nan where one is not finite."""
    return float((one - other).abs().max())


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Inside, in evaluation mode and without gradients; the modes before come back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def short_reach(causal: Any) -> Iterator[None]:
    """Inside, the model's windows and chunks are shorter than the probe's paths, each by as many
    keys: what its code adds to one of them stays added."""
    holders = [vars(held) for held in (*model_configs(causal), *causal.modules())]
    found = [
        (held, name, value)
        for held in holders
        for name, value in held.items()
        if type(value) is int and value > SHORT and _REACH.fullmatch(name)
    ]
    shorter = min((value for _, _, value in found), default=SHORT) - SHORT
    for held, name, value in found:
        held[name] = value - shorter
    try:
        yield
    finally:
        for held, name, value in found:
            held[name] = value
