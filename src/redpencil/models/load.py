"""Loading models and tokenizers: the only place that knows the auto classes.

What is wrong with a model becomes one sentence (ModelError) here; transformers' noise and
progress bars stay off the screen.
"""

import copy
import re
import sys
from typing import Any

import torch
import transformers
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from redpencil.errors import ModelError
from redpencil.models.attention import install
from redpencil.models.head import unwrap
from redpencil.models.locate import Located, adapter_base, locate, read_json, require_weights
from redpencil.models.quiet import quiet


def load_model(
    name: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal language model from a folder or the Hub, in eval mode, ready for trees.

    An adapter's folder gives its base with the adapter merged. Only safetensors are read.
    Raises ModelError.
    """
    found = locate(name)
    base = adapter_base(found)
    if base is not None:
        model = _with_adapter(found, base, dtype, trust_remote_code)
    else:
        config = _config(found, trust_remote_code)
        _require_causal(found, config)
        require_weights(found)
        model = _weights(found, dtype, trust_remote_code)
    install(model)
    return model.to(device).eval()


def blank_model(
    name: str,
    *,
    dtype: torch.dtype,
    device: torch.device | None = None,
    layers: int | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The model that `name` would load as, without its weights: random on `device`, or without
    storage on the meta device if there is none given; ready for trees, in training mode.

    layers: only so many of its first layers. Raises ModelError.
    """
    found = locate(name)
    base = adapter_base(found)
    if base is not None:
        return blank_model(
            base, dtype=dtype, device=device, layers=layers, trust_remote_code=trust_remote_code
        )
    config = _config(found, trust_remote_code)
    _require_causal(found, config)
    if layers is not None:
        config = with_layers(config, layers)
    with quiet(), torch.device("meta" if device is None else "cpu"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    install(model)
    disable_dropout(model)
    return (model if device is None else model.to(device)).train()


def blank_like(model: PreTrainedModel) -> PreTrainedModel:
    """The same architecture on the meta device, in the same dtype, in training mode."""
    with quiet(), torch.device("meta"):
        blank = type(model)(copy.deepcopy(model.config)).to(model.dtype)
    install(blank)
    disable_dropout(blank)
    return blank.train()


def with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """A copy of a config with so many of its first layers."""
    changed = copy.deepcopy(config)
    text = changed.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types[:layers])
    return changed


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub name. Raises ModelError, also if it has no EOS."""
    found = locate(name)
    base = adapter_base(found)
    if base is not None and found.folder and not (found.folder / "tokenizer_config.json").exists():
        return load_tokenizer(base, trust_remote_code=trust_remote_code)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                found.source, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # the tokenizers library raises bare Exception on a bad file
        raise ModelError(f"{name} has no usable tokenizer: {_first_line(error)}") from None
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {name} has no end-of-sequence token, so no response could end; "
            'name one as "eos_token" in its tokenizer_config.json'
        )
    return tokenizer


def context_length(name: str, *, trust_remote_code: bool = False) -> int:
    """Most positions the model was made for; sys.maxsize where its config sets no bound."""
    found = locate(name)
    base = adapter_base(found)
    if base is not None:
        return context_length(base, trust_remote_code=trust_remote_code)
    config = _config(found, trust_remote_code).get_text_config()
    for key in ("max_position_embeddings", "max_sequence_length", "max_seq_len"):
        if isinstance(getattr(config, key, None), int):
            return int(getattr(config, key))
    return sys.maxsize


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


def _config(found: Located, trust_remote_code: bool) -> PreTrainedConfig:
    if found.folder is not None:
        path = found.folder / "config.json"
        if not path.exists():
            raise ModelError(f"{found.name} is not a model folder: there is no config.json in it")
        content = read_json(path)
        kind, remote = content.get("model_type"), "auto_map" in content
        if not remote and kind not in CONFIG_MAPPING:
            raise ModelError(
                f"{path} names the architecture {kind!r}, which transformers "
                f"{transformers.__version__} does not know"
            )
        if remote and kind not in CONFIG_MAPPING and not trust_remote_code:
            raise ModelError(
                f"{found.name} comes with its own code; it is run only with --trust-remote-code"
            )
    try:
        with quiet():
            return AutoConfig.from_pretrained(found.source, trust_remote_code=trust_remote_code)
    except Exception as error:  # a config's own checks raise many types
        raise ModelError(f"{found.name} has no usable config: {_first_line(error)}") from None


def _require_causal(found: Located, config: PreTrainedConfig) -> None:
    kind = type(config)
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if getattr(config, "is_encoder_decoder", False):
        what = "an encoder-decoder"
    elif masked or (kind not in MODEL_FOR_CAUSAL_LM_MAPPING and not remote):
        what = "one that does not predict the next token"
    else:
        return
    raise ModelError(
        f"{found.name} is not a causal language model: {config.model_type!r} is {what}"
    )


def _weights(found: Located, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                found.source,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelError(f"the weights of {found.name} cannot be read: {_said(error)}") from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"the weights of {found.name} are incomplete: {len(missing)} tensors are missing, "
            f"{missing[0]} among them"
        )
    return model


def _said(error: Exception) -> str:
    if "ignore_mismatched_sizes" in str(error):
        return "tensor shapes in the file are not those of config.json"
    return _first_line(error)


def _with_adapter(
    found: Located, base: str, dtype: torch.dtype, trust_remote_code: bool
) -> PreTrainedModel:
    cpu = torch.device("cpu")
    try:
        model = load_model(base, dtype=dtype, device=cpu, trust_remote_code=trust_remote_code)
    except ModelError as error:
        raise ModelError(
            f"{found.name} is an adapter whose base cannot be loaded: {error}"
        ) from None
    require_weights(found)
    try:
        with quiet():
            wrapped = PeftModel.from_pretrained(model, found.source)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise ModelError(f"the adapter {found.name} cannot be read: {_first_line(error)}") from None
    merged: Any = wrapped.merge_and_unload()
    return merged


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
