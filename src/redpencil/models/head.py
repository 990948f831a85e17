"""The two halves of a causal language model: the decoder, and the projection on the vocabulary.

Log-probabilities are needed at few positions, so the decoder runs alone and its hidden states are
projected elsewhere, in chunks. What a model does to its logits after the projection stands in its
config, under a name of its own; it is gathered here.
"""

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from redpencil.errors import ModelError


@dataclass(frozen=True, slots=True, eq=False)
class OutputHead:
    """logits = cap(scale * (hidden @ weight.T + bias)), cap(x) = softcap * tanh(x / softcap).

    weight: (V, D). bias: (V,) or None. softcap: None for no cap.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float = 1.0
    softcap: float | None = None


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself: without peft's wrapper (adapters stay inside its layers)."""
    get_base_model = getattr(model, "get_base_model", None)
    return cast(PreTrainedModel, get_base_model() if get_base_model else model)


def backbone(model: nn.Module) -> nn.Module:
    """The decoder without head: its `last_hidden_state` is what `output_head` projects."""
    causal = unwrap(model)
    decoder = causal.base_model
    if decoder is causal:  # its class has another name for it (Llama 4)
        inside = [child for child in causal.children() if isinstance(child, PreTrainedModel)]
        decoder = inside[0] if len(inside) == 1 else causal
    if decoder is causal:
        raise ModelError(f"{type(causal).__name__} has no decoder apart from its output head")
    return cast(nn.Module, decoder)


def gives_rewards(model: nn.Module) -> bool:
    """Whether a model is a sequence classifier, without a projection on the vocabulary."""
    return unwrap(model).get_output_embeddings() is None


def reward_head(model: nn.Module) -> nn.Module:
    """The linear layer (..., D) -> (..., 1) of a causal sequence classifier.

    Raises ModelError where the head is none that can be applied to one position alone.
    """
    classifier = unwrap(model)
    head = getattr(classifier, "score", None)
    if not isinstance(head, nn.Module):
        raise ModelError(f"{type(classifier).__name__} has no head that reads one position")
    return head


def reward_head_modules(model: nn.Module) -> list[str]:
    """Names of what a sequence classifier has beside its backbone: `score`, `classifier`, ...; and
    an encoder's pooler inside of it, which only the head looks at."""
    classifier = unwrap(model)
    body = classifier.base_model_prefix
    beside = [
        name
        for name, module in classifier.named_children()
        if name != body and any(True for _ in module.parameters())
    ]
    has_pooler = getattr(backbone(model), "pooler", None) is not None
    return [*beside, *(["pooler"] if has_pooler else [])]


def output_head(model: nn.Module) -> OutputHead:
    """The projection of a causal language model and what its config does to the logits.

    Cohere multiplies by `logit_scale`, Granite divides by `logits_scaling`, Gemma 2 caps by
    `final_logit_softcapping`. Raises ModelError where there is no linear head.
    """
    causal = unwrap(model)
    head = causal.get_output_embeddings()
    if head is None or not hasattr(head, "weight"):
        raise ModelError(f"{type(causal).__name__} has no output head over the vocabulary")
    config = causal.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return OutputHead(head.weight, getattr(head, "bias", None), scale, softcap)
