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

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from redpencil.data.tree import lay_trees
from redpencil.errors import ModelError
from redpencil.models.configs import token_ids
from redpencil.models.gated import hold_all_activations
from redpencil.models.head import backbone, gives_rewards, output_head, reward_head, unwrap
from redpencil.models.last_layer import narrow_last_layer
from redpencil.models.layout import TreeLayout, in_force, laid_out, layout_in_force
from redpencil.models.tree_attention import tree_attention
from redpencil.types import Example, Origin, Response, TreeBatch

TREE = "redpencil_tree"
"""Registered name for models that otherwise run "sdpa"."""
TREE_EAGER = "redpencil_tree_plain"
"""For models that otherwise run "eager", because SDPA cannot do what they do (Gemma 2's cap)."""


def install(model: nn.Module) -> bool:
    """Let a loaded model (adapters around it or not) attend over trees.

    Returns False, and leaves the model alone, where its class does not go through the attention
    interface. The name never reaches a saved config: transformers does not write it.
    """
    causal = unwrap(model)
    if not causal._can_set_attn_implementation():
        return False
    present = causal.config._attn_implementation
    if present not in (TREE, TREE_EAGER):
        causal.set_attn_implementation(TREE_EAGER if present == "eager" else TREE)
    narrow_last_layer(causal)
    return True


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


TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4, torch.float16: 0.05, torch.bfloat16: 0.3}
"""How far tree and padded log-probabilities of the probe may lie apart, by the weights' dtype."""


def takes_trees(model: nn.Module) -> tuple[bool, str]:
    """Whether trees can be laid flat for this model, measured, and the reason in words.

    A tiny tree goes through the model laid flat and as plain sequences; every attention layer
    must have come to redpencil, and the log-probabilities (or rewards) must agree.
    """
    causal = unwrap(model)
    kind = causal.config.model_type
    if causal.config.is_encoder_decoder:
        return False, f"{kind} is an encoder-decoder"
    if not install(model):
        return False, f"{kind} does not call the attention interface"
    batch = _probe(causal.config.get_text_config(), causal.device)
    rewards = gives_rewards(model)
    in_tree, plain = (_tree_rewards, _plain_rewards) if rewards else (_tree_logps, _padded_logps)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        read = batch.ending if rewards else batch.predicting
        with torch.no_grad(), laid_out(batch, read) as layout:
            tree = in_tree(model, batch)
        with torch.no_grad():
            padded = plain(model, batch)
    except (ModelError, TypeError, AssertionError, ValueError, RuntimeError, LookupError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False, f"{kind} could not run a probe tree: {error}"
    finally:
        for module, training in modes.items():
            module.training = training
    what = "rewards" if rewards else "log-probabilities"
    return _judge(causal, layout, float((tree - padded).abs().max()), what)


def _judge(causal: Any, layout: TreeLayout, difference: float, what: str) -> tuple[bool, str]:
    config = causal.config.get_text_config()
    kind, layers = config.model_type, config.num_hidden_layers
    if layout.calls == 0:
        return False, f"{kind} does not call the attention interface"
    if layout.calls != layers:
        return False, f"{layout.calls} of {layers} layers of {kind} call the attention interface"
    if not layout.masked_windows <= layout.windows:
        return False, f"{kind} has a sliding window or chunks that only its mask knows"
    if not difference <= TOLERANCE.get(causal.dtype, 0.0):
        return False, f"tree and padded {what} differ by {difference:.2g} on a probe"
    return True, (
        f"tree and padded {what} agree to {difference:.1g} on a probe; attention: "
        f"{'; '.join(sorted(layout.ways))}"
    )


def _probe(config: Any, device: torch.device) -> TreeBatch:
    """Two small trees with a shared prompt and responses that begin alike, as ordinary tokens."""
    special = token_ids(config.pad_token_id, config.bos_token_id, config.eos_token_id)
    ordinary = [i for i in range(min(config.vocab_size, 200)) if i not in special]
    ids = np.array(ordinary[-12:] if len(ordinary) >= 12 else (ordinary * 12)[:12], dtype=np.int32)

    def example(prompt: list[int], *responses: list[int]) -> Example:
        origin = Origin("probe", 1)
        laid = (
            Response(ids=ids[r], scored=np.ones(len(r), dtype=bool), origin=origin)
            for r in responses
        )
        return Example(
            prompt_ids=ids[prompt], responses=tuple(laid), comparisons=(), prompt_key="probe"
        )

    first = example([0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 8, 9, 10], [11, 4, 3])
    second = example([5, 2], [9, 6, 1], [8, 0, 7, 3])
    return lay_trees([first, second], feed_last=True).to(device)


def _tree_logps(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(E,) float32, whole logits: the probe is tiny."""
    hidden = backbone(model)(
        input_ids=batch.input_ids[None], position_ids=batch.position_ids[None], use_cache=False
    ).last_hidden_state[0]
    head = output_head(model)
    logits = head.scale * nn.functional.linear(hidden[batch.predecessor], head.weight, head.bias)
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    logps = torch.log_softmax(logits.float(), dim=-1)
    return logps.gather(1, batch.target_ids[:, None])[:, 0][batch.path_token]


def _tree_rewards(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B,) float32."""
    hidden = backbone(model)(
        input_ids=batch.input_ids[None], position_ids=batch.position_ids[None], use_cache=False
    ).last_hidden_state[0]
    rewards: Tensor = reward_head(model)(hidden[batch.last_token])[:, 0]
    return rewards.float()


def _plain_rewards(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(B,) float32, sequence by sequence: a padding token is not settled yet."""
    device = batch.input_ids.device
    paths = (np.concatenate([e.prompt_ids, r.ids]) for e in batch.examples for r in e.responses)
    rows = (torch.from_numpy(path).long()[None].to(device) for path in paths)
    return torch.cat([model(input_ids=row).logits[:, 0].float() for row in rows])


def _padded_logps(model: nn.Module, batch: TreeBatch) -> Tensor:
    """(E,) float32 from a padded forward of every path, whose order is that of the incidences."""
    paths = [
        torch.from_numpy(np.concatenate([e.prompt_ids, r.ids])).long()
        for e in batch.examples
        for r in e.responses
    ]
    prompts = [len(e.prompt_ids) for e in batch.examples for _ in e.responses]
    ids = nn.utils.rnn.pad_sequence(paths, batch_first=True).to(batch.input_ids.device)
    lengths = torch.tensor([len(p) for p in paths], device=ids.device)
    mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
    logps = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    logps = logps.gather(2, ids[:, 1:, None])[..., 0]
    return torch.cat(
        [
            row[prompt - 1 : len(path) - 1]
            for row, prompt, path in zip(logps, prompts, paths, strict=True)
        ]
    )
