"""An adapter given as a model: its config, its weights on its base, and both merged into one.

peft passes over what it does not know or find with a warning, draws what a file lacks, and freezes
what it wraps. Here each of these is a sentence, or undone; and a merge is believed when the merged
model says what the adapted one said.
"""

from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from redpencil.errors import ModelError, did_you_mean
from redpencil.models.locate import ADAPTER_CONFIG, Located, read_json
from redpencil.models.quiet import in_one_sentence

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before the name that a tensor has in the base, in an adapter's file."""

_HEADS = ("score", "classifier")
"""What heads of sequence classifiers are called, as peft has it, too."""


def is_reward_adapter(found: Located) -> bool:
    """Whether an adapter says, or its file shows, that it belongs to a sequence classifier."""
    if _folder(found).joinpath(WEIGHTS).is_file():
        names = (name.removeprefix(PREFIX) for name in adapter_tensors(found))
        if any(name.startswith(_HEADS) for name in names):
            return True
    return read_json(_folder(found) / ADAPTER_CONFIG).get("task_type") == "SEQ_CLS"


def adapter_config(found: Located) -> PeftConfig:
    """peft's config of an adapter that can be merged. Raises ModelError for any other."""
    path = _folder(found) / ADAPTER_CONFIG
    content = read_json(path)
    kind = content.get("peft_type")
    known = {str(k.value): config for k, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if not isinstance(kind, str) or kind not in known:
        hint = did_you_mean(kind, known) if isinstance(kind, str) else ""
        hint = hint if "did you mean" in hint else ""
        raise ModelError(
            f"{path} names the kind of adapter {kind!r}, which peft {version('peft')} does not "
            f"know{hint}"
        )
    takes = {field.name for field in fields(known[kind])}
    for key in sorted(content.keys() - takes):
        if content[key]:  # what a newer peft leaves off changes nothing
            raise ModelError(
                f"{path} sets {key!r}, which peft {version('peft')} does not know and would leave "
                "out; take the line away if the adapter computes the same without it"
            )
    with in_one_sentence(f"{path} cannot be read"):
        config = known[kind].from_pretrained(found.source)
    if config.is_prompt_learning:
        raise ModelError(
            f"{found.name} is an adapter of the kind {kind}, which puts made-up tokens before "
            "every text; it cannot be merged into the weights of its base, so it cannot be used"
        )
    if getattr(config, "layer_replication", None):
        raise ModelError(
            f"{found.name} is an adapter with layer_replication: layers share weights that it "
            "changes in different ways, so it cannot be merged; give a folder of the whole model"
        )
    return config


def adapter_tensors(found: Located) -> list[str]:
    """Names of the tensors in an adapter's file. Raises ModelError where it is no safetensors."""
    path = _folder(found) / WEIGHTS
    with in_one_sentence(f"the adapter {found.name} cannot be read"), safe_open(path, "pt") as file:
        return sorted(file.keys())


def require_adapter_weights(found: Located) -> None:
    """Raises ModelError where an adapter's folder holds none, or a pickle."""
    folder = _folder(found)
    if (folder / WEIGHTS).is_file():
        return
    if (folder / "adapter_model.bin").exists():
        raise ModelError(
            f"{found.name} has its weights only as a pickle, which can run code when it is opened; "
            f"save it as safetensors first (model.save_pretrained in peft does)"
        )
    raise ModelError(f"{found.name} holds no weights: there is no {WEIGHTS} in it")


def put_on(model: PreTrainedModel, config: PeftConfig, found: Located) -> PeftModel:
    """The model with the adapter of a folder around its layers, whole.

    Raises ModelError where the file lacks tensors, holds others, or does not fit the model.
    """
    on_meta = next(model.parameters()).is_meta
    with in_one_sentence(f"the adapter {found.name} does not fit its base"):
        # As peft does it, whichever its task: what is special there is a head, which is checked.
        adapted = PeftModel(model, config, low_cpu_mem_usage=on_meta)
        result = adapted.load_adapter(
            found.source,
            "default",
            torch_device="cpu",
            low_cpu_mem_usage=on_meta,
            key_mapping=getattr(model, "_checkpoint_conversion_mapping", None) or None,
        )
    for names, what in (
        (result.missing_keys, "are missing"),
        (result.unexpected_keys, "have no place in its base"),
    ):
        if names:
            raise ModelError(
                f"the adapter {found.name} does not fit its base: {len(names)} tensors {what}, "
                f"{names[0]} among them"
            )
    return adapted


def merged(base: PreTrainedModel, config: PeftConfig, found: Located) -> PreTrainedModel:
    """The base with the adapter of a folder merged into its weights, which train as they would.

    Raises ModelError as `put_on`, and where the merged model does not compute what the adapted one
    does.
    """
    frozen = {name for name, p in base.named_parameters() if not p.requires_grad}
    adapted = put_on(base, config, found)
    what = f"the adapter {found.name} cannot be merged into its base"
    kind = PeftType(config.peft_type).value
    with in_one_sentence(what), torch.no_grad():
        before = _outputs(adapted)
        model: Any = adapted.merge_and_unload(safe_merge=True)
        after = _outputs(model)
    scale, apart = float(before.abs().max()), float((after - before).abs().max())
    if not apart <= torch.finfo(model.dtype).eps ** 0.5 * scale:
        raise ModelError(
            f"{what}: merged, its outputs on a few tokens are off by {apart:.2g} of at most "
            f"{scale:.2g}, so this {kind} adapter computes what weights alone cannot"
        )
    for name, parameter in model.named_parameters():  # peft froze them
        parameter.requires_grad_(name not in frozen)
    _untie(model)
    assert isinstance(model, PreTrainedModel), type(model).__name__
    # Not the base's any more: what is added to it now stands on a model that no folder holds.
    model.name_or_path = model.config._name_or_path = ""
    return model


def _outputs(model: Any) -> Tensor:
    """What a model says of some texts of the first and the last tokens, one after the other."""
    rows = model.get_input_embeddings().weight.shape[0]
    drawn = torch.randint(0, rows, (4, 12), generator=torch.Generator().manual_seed(0))
    device = model.get_input_embeddings().weight.device
    logits = [model(input_ids=row[None].to(device)).logits.double().flatten() for row in drawn]
    return torch.cat(logits)


def _untie(model: PreTrainedModel) -> None:
    """An adapter that brings its own embedding or head parts the two; the config then says so,
    or one of them would be lost where the model is saved."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is embedding.weight:
        return
    for part in (model.config, model.config.get_text_config()):
        part.tie_word_embeddings = False


def tensors_drawn(drawn: Sequence[str], found: Located) -> list[str]:
    """Of a base's tensors that no file of its own holds, those that the adapter's lacks, too."""
    brought = set(adapter_tensors(found))
    return [name for name in drawn if PREFIX + name not in brought]


def _folder(found: Located) -> Path:
    assert found.folder is not None, "an adapter is known by its folder"
    return found.folder
