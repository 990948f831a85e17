"""A model's config: read, and checked for what the model is asked to be."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import transformers
from safetensors import safe_open
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    PreTrainedConfig,
)

from redpencil.errors import ModelError
from redpencil.models.locate import Located, adapter_base, locate, read_json
from redpencil.models.quiet import in_one_sentence

Head = Literal["language", "reward"]
"""What a model is loaded as: with its projection on the vocabulary, or with one scalar."""

_CLASSIFIER = "ForSequenceClassification"


def read_config(found: Located, trust_remote_code: bool) -> PreTrainedConfig:
    """Raises ModelError where there is none or transformers cannot use it."""
    if found.folder is not None:
        path = found.folder / "config.json"
        if not path.exists():
            raise ModelError(f"{found.name} is not a model folder: {_what_is_there(found)}")
        content = read_json(path)
        kind, remote = content.get("model_type"), "auto_map" in content
        if not isinstance(kind, str | None):
            raise ModelError(f"{path} names the architecture {kind!r}, which is no name")
        if not remote and kind not in CONFIG_MAPPING:
            raise ModelError(
                f"{path} names the architecture {kind!r}, which transformers "
                f"{transformers.__version__} does not know"
            )
        if remote and kind not in CONFIG_MAPPING and not trust_remote_code:
            raise ModelError(
                f"{found.name} comes with its own code; it is run only with --trust-remote-code"
            )
    with in_one_sentence(f"{found.name} has no usable config"):
        config = AutoConfig.from_pretrained(found.source, trust_remote_code=trust_remote_code)
        _ = config.get_text_config()
    _refuse_quantized(found, config)
    return config


_QUANTIZED = ("quantize_config.json", "quant_config.json")
"""Where older tools say it, beside the config."""


def _refuse_quantized(found: Located, config: PreTrainedConfig) -> None:
    """Raises ModelError for weights that stand for others: they cannot be trained or merged."""
    parts = (config, config.get_text_config())
    said = next((q for c in parts if (q := getattr(c, "quantization_config", None))), None)
    if said is None and found.folder is not None:
        said = next(
            (read_json(found.folder / f) for f in _QUANTIZED if (found.folder / f).is_file()), None
        )
    if said is None:
        return
    said = said if isinstance(said, Mapping) else getattr(said, "to_dict", dict)()
    named, bits = said.get("quant_method"), said.get("bits")
    for key, width in (("load_in_4bit", 4), ("load_in_8bit", 8)):
        bits = bits or (width if said.get(key) else None)
    how = ", ".join([*([str(named)] if named else []), *([f"{bits} bits"] if bits else [])])
    raise ModelError(
        f"{found.name} is quantised{f' ({how})' if how else ''}, and quantised weights can be "
        "neither trained nor scored here yet; give the folder of the full weights it was made from"
    )


def _what_is_there(found: Located) -> str:
    assert found.folder is not None
    if (found.folder / "recipe.yaml").is_file():
        return f"it is a run of redpencil, whose model is {found.folder / 'model'}"
    return "there is no config.json in it"


def stored_dtype(found: Located, trust_remote_code: bool) -> str:
    """The dtype that a config names for its weights, or they themselves where it names none; an
    adapter has its base's. "float32", "bfloat16", "float16". Raises ModelError."""
    base = adapter_base(found)
    if base is not None:
        return stored_dtype(locate(base), trust_remote_code)
    config = read_config(found, trust_remote_code)
    named = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    if named is None and found.folder is not None:
        for path in sorted(found.folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                kinds = Counter(file.get_slice(key).get_dtype() for key in file.keys())  # noqa: SIM118
            named = next((_DTYPES[k] for k, _ in kinds.most_common() if k in _DTYPES), None)
            break
    name = str(named).removeprefix("torch.")
    return name if name in _DTYPES.values() else "float32"


_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def is_encoder(config: PreTrainedConfig) -> bool:
    """Whether every token sees those after it, too."""
    kind = type(config)
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    return masked and not getattr(config, "is_encoder_decoder", False)


def is_classifier(config: PreTrainedConfig) -> bool:
    """Whether the weights beside this config are those of a sequence classifier."""
    named = config.architectures
    listed = named if isinstance(named, Sequence) else ()
    return any(isinstance(name, str) and name.endswith(_CLASSIFIER) for name in listed)


def require(head: Head, found: Located, config: PreTrainedConfig) -> None:
    """Raises ModelError where this config's model cannot have that head."""
    if head == "reward":
        _require_rewardable(found, config)
    else:
        _require_causal(found, config)


def _require_causal(found: Located, config: PreTrainedConfig) -> None:
    kind = type(config)
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if is_classifier(config):
        what = "a reward model or another classifier, which cannot write"
        raise ModelError(f"{found.name} is not a language model: it is {what}")
    if getattr(config, "is_encoder_decoder", False):
        what = "an encoder-decoder"
    elif is_encoder(config) or (kind not in MODEL_FOR_CAUSAL_LM_MAPPING and not remote):
        what = "one that does not predict the next token"
    else:
        return
    raise ModelError(
        f"{found.name} is not a causal language model: {config.model_type!r} is {what}"
    )


def _require_rewardable(found: Located, config: PreTrainedConfig) -> None:
    remote = "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {})
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{found.name} cannot be a reward model: {config.model_type!r} is an encoder-decoder"
        )
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not remote:
        raise ModelError(
            f"{found.name} cannot be a reward model: transformers {transformers.__version__} has "
            f"no sequence classification for {config.model_type!r}"
        )
    if is_classifier(config) and config.num_labels != 1:
        raise ModelError(
            f"{found.name} is a classifier with {config.num_labels} labels; a reward model has "
            "one, so begin from its base model"
        )


def with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """A copy of a config with so many of its first layers."""
    changed = copy.deepcopy(config)
    text = changed.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types[:layers])
    return changed


def token_ids(*fields: int | Sequence[int] | None) -> list[int]:
    """The tokens that fields of a config name, in order and each once. A field may hold one, none,
    or several: Llama 3, Gemma 3 and GLM 4 end their texts with any of a list. Raises ModelError
    where one holds something else."""
    named: list[int] = []
    for field in fields:
        several = [field] if isinstance(field, int) else [] if field is None else field
        if not isinstance(several, Sequence) or not all(isinstance(one, int) for one in several):
            raise ModelError(
                f"a config of the model names {field!r} as a token (eos_token_id or another); a "
                "token is named by its number, several by a list of numbers"
            )
        named += several
    return list(dict.fromkeys(named))


def ordinary_tokens(config: PreTrainedConfig) -> list[int]:
    """Some tokens that mean nothing special to a model, or just one: what probes are made of."""
    text = config.get_text_config()
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    special = token_ids(*(getattr(text, name, None) for name in names))
    return [i for i in range(min(text.vocab_size, 200)) if i not in special] or [0]
