"""Loading models: the only place that knows their auto classes.

What is wrong with a model becomes one sentence (ModelError) here; transformers' noise and
progress bars stay off the screen.
"""

import copy
import re
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from redpencil.errors import ModelError
from redpencil.models.attention import install
from redpencil.models.configs import (
    Head,
    first_line,
    is_classifier,
    read_config,
    require,
    with_layers,
)
from redpencil.models.gated import hold_fewer_activations
from redpencil.models.head import unwrap
from redpencil.models.locate import Located, adapter_base, locate, read_json, require_weights
from redpencil.models.norms import install_norms
from redpencil.models.quiet import quiet
from redpencil.models.rotations import install_rotations
from redpencil.models.tokenizer import load_tokenizer
from redpencil.models.vocabulary import install_lookup

_AUTO: dict[Head, Any] = {
    "language": AutoModelForCausalLM,
    "reward": AutoModelForSequenceClassification,
}


def load_model(
    name: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
    head: Head = "language",
    new_head: int | None = None,
) -> PreTrainedModel:
    """A causal language model from a folder or the Hub, in eval mode, ready for trees.

    head: "reward" gives a sequence classifier with one label instead, from a causal model or an
    encoder. new_head: seed of that head where the weights have none; None: they must have it.
    An adapter's folder gives its base with the adapter merged. Only safetensors are read.
    Raises ModelError.
    """
    found = locate(name)
    base = adapter_base(found)
    if base is not None:
        model = _with_adapter(found, base, dtype, trust_remote_code, head)
    else:
        config = read_config(found, trust_remote_code)
        require(head, found, config)
        require_weights(found)
        if head == "reward":
            model = _classifier(found, config, dtype, trust_remote_code, new_head)
        else:
            model = _language_model(found, dtype, trust_remote_code)
    equip(model)
    return model.to(device).eval()


def check_language_model(name: str, *, trust_remote_code: bool = False) -> None:
    """Raises ModelError where `load_model` and `load_tokenizer` would, short of the weights."""
    found = locate(name)
    if adapter_base(found) is None:
        require("language", found, read_config(found, trust_remote_code))
    require_weights(found)
    load_tokenizer(name, trust_remote_code=trust_remote_code)


def blank_model(
    name: str,
    *,
    dtype: torch.dtype,
    device: torch.device | None = None,
    layers: int | None = None,
    trust_remote_code: bool = False,
    head: Head = "language",
) -> PreTrainedModel:
    """The model that `name` would load as, without its weights: random on `device`, or without
    storage on the meta device if there is none given; ready for trees, in training mode.

    layers: only so many of its first layers. Raises ModelError.
    """
    found = locate(name)
    base = adapter_base(found)
    if base is not None:
        return blank_model(
            base,
            dtype=dtype,
            device=device,
            layers=layers,
            trust_remote_code=trust_remote_code,
            head=head,
        )
    config = read_config(found, trust_remote_code)
    require(head, found, config)
    if layers is not None:
        config = with_layers(config, layers)
    with quiet(), torch.device("meta" if device is None else "cpu"):
        if head == "reward":
            config.num_labels = 1
            text = config.get_text_config()
            text.pad_token_id = text.pad_token_id or 0  # any will do where nothing is read
        model = _AUTO[head].from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    equip(model)
    disable_dropout(model)
    return (model if device is None else model.to(device)).train()


def blank_like(model: PreTrainedModel) -> PreTrainedModel:
    """The same architecture on the meta device, in the same dtype, in training mode."""
    with quiet(), torch.device("meta"):
        blank = type(model)(copy.deepcopy(model.config)).to(model.dtype)
    equip(blank)
    disable_dropout(blank)
    return blank.train()


def equip(model: PreTrainedModel) -> None:
    """Attention over trees, and the backward passes that are ours."""
    install(model)
    install_norms(model)
    install_rotations(model)
    hold_fewer_activations(model)
    install_lookup(model)


def unload(model: nn.Module) -> None:
    """Free a model's weights now, whoever still holds the module. Its forwards are methods bound to
    modules that hold them (`equip`): such circles stay until the garbage collector passes by."""
    model.to("meta")


def pick_device() -> torch.device:
    """The fastest device at hand: CUDA, then Apple's, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def parameter_count(model: nn.Module) -> int:
    """Numbers in the model; tied weights count once."""
    return sum(p.numel() for p in model.parameters())


def learned_positions(model: nn.Module) -> int | None:
    """How many positions a model has a learned vector for; None where positions are computed
    (rotary, ALiBi) and a longer sequence is possible, if beyond what the model was trained on."""
    tokens = unwrap(model).get_input_embeddings()
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and module is not tokens and _POSITION.search(last):
            return module.num_embeddings
    return None


_POSITION = re.compile(r"pos|^wpe$")


def disable_dropout(model: nn.Module) -> int:
    """Set every dropout probability above 0 to 0; returns how many there were.

    Preference training compares log-probabilities of policy and reference, so both must be
    repeatable. Configs are left alone: a saved model keeps the values it came with.
    """
    switched_off = 0
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            module.p = 0.0
            switched_off += 1
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float) and value > 0:
                setattr(module, name, 0.0)
                switched_off += 1
    return switched_off


def _language_model(found: Located, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    model, missing = _weights(found, "language", dtype, trust_remote_code)
    if missing:
        raise ModelError(
            f"the weights of {found.name} are incomplete: {len(missing)} tensors are missing, "
            f"{missing[0]} among them"
        )
    return model


def _classifier(
    found: Located,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    trust_remote_code: bool,
    new_head: int | None,
) -> PreTrainedModel:
    """One label. What the weights lack must belong to the head, and is drawn by its seed."""
    if new_head is None and not is_classifier(config):
        raise ModelError(f"{found.name} is not a reward model: its weights have no reward head")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(new_head or 0)
        model, missing = _weights(found, "reward", dtype, trust_remote_code, num_labels=1)
    prefix = f"{model.base_model_prefix}."
    body = [key for key in missing if key.startswith(prefix) and ".pooler." not in key]
    lost = missing if is_classifier(config) else body
    if lost:
        raise ModelError(
            f"the weights of {found.name} are incomplete: {len(lost)} tensors are missing, "
            f"{lost[0]} among them"
        )
    return model


def _weights(
    found: Located, head: Head, dtype: torch.dtype, trust_remote_code: bool, **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of the tensors that the files do not hold."""
    try:
        with quiet():
            model, info = _AUTO[head].from_pretrained(
                found.source,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **options,
            )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelError(f"the weights of {found.name} cannot be read: {_said(error)}") from None
    return model, sorted(info["missing_keys"])


def _said(error: Exception) -> str:
    if "ignore_mismatched_sizes" in str(error):
        return "tensor shapes in the file are not those of config.json"
    return first_line(error)


def _with_adapter(
    found: Located, base: str, dtype: torch.dtype, trust_remote_code: bool, head: Head
) -> PreTrainedModel:
    assert found.folder is not None, "an adapter is known by its folder"
    kind = read_json(found.folder / "adapter_config.json").get("task_type")
    if kind == "SEQ_CLS" and head == "language":
        raise ModelError(f"{found.name} is the adapter of a reward model, which cannot write")
    if kind == "CAUSAL_LM" and head == "reward":
        raise ModelError(
            f"{found.name} is the adapter of a language model; merge it into its base first and "
            "give that folder"
        )
    try:
        model = load_model(
            base,
            dtype=dtype,
            device=torch.device("cpu"),
            trust_remote_code=trust_remote_code,
            head=head,
            new_head=0 if head == "reward" else None,  # the adapter brings its own
        )
    except ModelError as error:
        raise ModelError(
            f"{found.name} is an adapter whose base cannot be loaded: {error}"
        ) from None
    require_weights(found)
    try:
        with quiet():
            wrapped = PeftModel.from_pretrained(model, found.source)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(f"the adapter {found.name} cannot be read: {first_line(error)}") from None
    merged: Any = wrapped.merge_and_unload()
    return merged
