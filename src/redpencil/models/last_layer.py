"""What nothing is read from is not computed: the last layer works on the tokens that are read.

Log-probabilities are read at the tokens that predict a scored one, rewards at last tokens. Below
the last layer every token matters, because those after it attend to it. In the last layer a token
matters to others through its keys and values only: a prompt's queries, attention and MLP would be
computed there and thrown away, and zeros walked back through in the backward pass. With a layout in
force that says which tokens are read (`TreeLayout.read`), these parts are given those tokens alone;
at the others their result is zero. What is read stays the same.

Of a decoder's L layers this spares one L-th of the work on tokens that are not read, all but keys
and values.
"""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from redpencil.errors import ModelError
from redpencil.models.layout import layout_in_force

_FEED_FORWARD = frozenset({"mlp", "feed_forward", "fc1", "fc2"})
_IN_ATTENTION = frozenset({"q_proj", "o_proj", "out_proj", "dense", "c_proj"})
"""Names, in a decoder layer and in its attention, of what maps each token by itself. Keys and
values are not among them: every token's are needed."""

_DEVICES = frozenset({"cpu", "cuda"})
"""Elsewhere putting rows back may cost more than they save: `index_copy` on Apple's GPUs may be
slow. Not measured."""

_LAST, _NARROWED = "_redpencil_last", "_redpencil_narrowed"
"""Marks on a last layer's attention, and on modules that have our hooks."""


def narrow_last_layer(model: PreTrainedModel) -> int:
    """Let the parts of a decoder's last layer skip tokens that are not read; returns how many
    parts were new. Adapters put around a part make a new one."""
    layer = _last_layer(model)
    if layer is None:
        return 0
    parts = []
    for name, child in layer.named_children():
        if name in _FEED_FORWARD and not _routes(child):
            parts.append(child)
        elif hasattr(child, "layer_idx"):  # attention, whose place in a cache it is
            setattr(child, _LAST, True)
            parts += [part for name, part in child.named_children() if name in _IN_ATTENTION]
    new = [part for part in parts if not getattr(part, _NARROWED, False)]
    for part in new:
        setattr(part, _NARROWED, True)
        part.register_forward_pre_hook(_gather)
        part.register_forward_hook(_scatter)
    return len(new)


def is_last(module: nn.Module) -> bool:
    """Whether this is the last layer's attention."""
    return getattr(module, _LAST, False)


def _last_layer(model: PreTrainedModel) -> nn.Module | None:
    """The last of a model's one stack of layers; None where there is not just one."""
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == layers]
    return stacks[0][-1] if layers and len(stacks) == 1 else None


def _routes(module: nn.Module) -> bool:
    """Whether a feed-forward block sends tokens to experts, whose load a model may count."""
    return any("expert" in name or "router" in name for name, _ in module.named_modules())


def _gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Before a part: (..., N, D) becomes (..., R, D), the tokens that are read."""
    layout = layout_in_force()
    if layout is None or layout.read is None or not args or args[0].device.type not in _DEVICES:
        return None
    if args[0].shape[-2] != layout.tokens:  # inside a part that has gathered already
        return None
    layout.gathered.add(module)
    return (args[0].index_select(-2, layout.read.index), *args[1:])


def _scatter(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
    """After a part that was given those: (..., R, D) becomes (..., N, D), zeros elsewhere."""
    layout = layout_in_force()
    if layout is None or layout.read is None or module not in layout.gathered:
        return None
    layout.gathered.remove(module)
    if not isinstance(out, Tensor):
        raise ModelError(f"{type(module).__name__} returns more than a tensor")
    whole = out.new_zeros((*out.shape[:-2], layout.tokens, out.shape[-1]))
    return whole.index_copy(-2, layout.read.index, out)
