"""Low-rank adapters: added, switched off (which gives the reference), and merged into a copy."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from redpencil.errors import ModelError
from redpencil.models.head import gives_rewards, reward_head_modules
from redpencil.models.last_layer import narrow_last_layer
from redpencil.models.quiet import quiet


def add_lora(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float | None = None,
    targets: str | list[str] = "all-linear",
    seed: int = 0,
) -> PeftModel:
    """Wrap a model with LoRA adapters; only they are trained, and at first they change nothing.

    A reward model's head is trained beside them, for it begins as noise, and saved with them.
    alpha: the adapters' scale is alpha / rank; default 2 * rank. targets: module names, or
    "all-linear": every linear layer but those of the head. seed: of the adapters' random half.
    Raises ModelError where no module of the model is a target.
    """
    heads = reward_head_modules(model) if gives_rewards(model) else None
    config = LoraConfig(
        r=rank,
        lora_alpha=2.0 * rank if alpha is None else alpha,
        target_modules=targets,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM" if heads is None else "SEQ_CLS",
        modules_to_save=heads,
    )
    try:
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f"adapters cannot be added: {error}") from None
    narrow_last_layer(model)  # its layers have new modules around them
    return adapted


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the one it was before `add_lora`: the reference."""
    assert isinstance(model, PeftModel), f"{type(model).__name__} has no adapter to switch off"
    with model.disable_adapter():
        yield


def merged_copy(model: nn.Module) -> PreTrainedModel:
    """A plain transformers model with the adapters merged into copied weights.

    The model given stays as it is. Without adapters it is returned itself.
    """
    if not isinstance(model, PeftModel):
        assert isinstance(model, PreTrainedModel), type(model).__name__
        return model
    with quiet():
        return copy.deepcopy(model).merge_and_unload(safe_merge=True)


def bare_copy(model: PeftModel) -> PreTrainedModel:
    """A copy of what the adapters were added to, without them."""
    with quiet():
        bare = copy.deepcopy(model).unload()
    assert isinstance(bare, PreTrainedModel), type(bare).__name__
    return bare
