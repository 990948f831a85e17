"""Attention over trees for unmodified transformers models.

Query q sees key k iff k <= q <= subtree_end[k]: causal, siblings apart, trees apart. The function
stands in transformers' AttentionInterface, next to "sdpa" and "eager". Inside `laid_out(batch)` a
model that `install` was called on attends over the trees of that batch; outside it is the model it
was before: padded batches, generation with a cache, everything. A mask function of the same name
keeps transformers from building a mask inside.

The layout travels beside the model and not through its arguments, because some models (StableLM)
drop arguments they do not know, and because recomputation under activation checkpointing needs
it once more, long after `laid_out` was left.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from redpencil.errors import ModelError
from redpencil.models.gated import hold_all_activations
from redpencil.models.head import unwrap
from redpencil.models.last_layer import narrow_last_layer
from redpencil.models.layout import in_force, layout_in_force
from redpencil.models.tree_attention import tree_attention

TREE = "redpencil_tree"
"""Registered name for models that otherwise run "sdpa"."""
TREE_EAGER = "redpencil_tree_plain"
"""For models that otherwise run "eager", because SDPA cannot do what they do (Gemma 2's cap)."""


_BEFORE = "_redpencil_attention_before"
"""Mark on a model: each of its configs with the name that stood there before ours."""


def install(model: nn.Module) -> bool:
    """Let a loaded model (adapters around it or not) attend over trees.

    Returns False, and leaves the model alone, where its class does not go through the attention
    interface. Some models ask for the names "eager" and "sdpa" in their code and are another model
    under ours, so it stands only where `takes_trees` said yes. It never reaches a saved config:
    transformers does not write it.
    """
    causal = unwrap(model)
    if not causal._can_set_attn_implementation():
        return False
    if not is_installed(causal):
        setattr(causal, _BEFORE, [(c, c._attn_implementation) for c in model_configs(causal)])
        eager = causal.config._attn_implementation == "eager"
        causal.set_attn_implementation(TREE_EAGER if eager else TREE)
    narrow_last_layer(causal)
    return True


def is_installed(model: nn.Module) -> bool:
    """Whether our name stands in the model's config."""
    return unwrap(model).config._attn_implementation in (TREE, TREE_EAGER)


def uninstall(model: nn.Module) -> None:
    """Give the model the attention back that it had before `install`."""
    causal = unwrap(model)
    if is_installed(causal):
        for config, name in getattr(causal, _BEFORE):
            config._attn_implementation_internal = name


def model_configs(causal: nn.Module) -> list[PreTrainedConfig]:
    """The configs that a model and the models inside of it read, each once."""
    found: dict[int, PreTrainedConfig] = {}
    waiting = [m.config for m in causal.modules() if isinstance(m, PreTrainedModel)]
    while waiting:
        config = waiting.pop()
        if id(config) not in found:
            found[id(config)] = config
            inner = (getattr(config, key, None) for key in config.sub_configs)
            waiting += [c for c in inner if isinstance(c, PreTrainedConfig)]
    return list(found.values())


def enable_activation_checkpointing(model: nn.Module) -> None:
    """Recompute each layer's activations in backward, under the layout of its forward.

    Raises ModelError where the architecture does not support it.
    """
    causal = unwrap(model)
    if not causal.supports_gradient_checkpointing:
        raise ModelError(f"{type(causal).__name__} does not support activation checkpointing")
    hold_all_activations(model)
    causal.activation_checkpointing_enable({"use_reentrant": False, "context_fn": _same_layout})


def _same_layout() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts for a layer's forward and for its recomputation."""
    layout = layout_in_force()
    return nullcontext(), nullcontext() if layout is None else in_force(layout)


def _attention_or_sdpa(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
    layout = layout_in_force()
    if layout is None:
        return sdpa_attention_forward(module, *args, **kwargs)
    query, key, value, *_mask = args
    kwargs.pop("attention_mask", None)
    return tree_attention(layout, module, query, key, value, **kwargs)


def _attention_or_eager(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
    if layout_in_force() is None:
        # Every transformers model keeps its own eager function beside its attention class.
        eager = sys.modules[type(module).__module__].eager_attention_forward
        return eager(module, *args, **kwargs)
    return _attention_or_sdpa(module, *args, **kwargs)


def _no_mask_or(mask_function: Any) -> Any:
    """A mask function that builds nothing while trees are laid out."""

    def mask(*args: Any, **kwargs: Any) -> Tensor | None:
        layout = layout_in_force()
        if layout is None:
            return mask_function(*args, **kwargs)
        if kwargs.get("local_size") is not None:
            layout.masked_windows.add(kwargs["local_size"])
        return None

    return mask


AttentionInterface.register(TREE, _attention_or_sdpa)
AttentionInterface.register(TREE_EAGER, _attention_or_eager)
AttentionMaskInterface.register(TREE, _no_mask_or(sdpa_mask))
AttentionMaskInterface.register(TREE_EAGER, _no_mask_or(eager_mask))
