"""Loading models: the only place that knows their auto classes.

What is wrong with a model becomes one sentence (ModelError) here; transformers' noise and
progress bars stay off the screen.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftConfig
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from redpencil.errors import ModelError
from redpencil.models.adapters import (
    adapter_config,
    is_reward_adapter,
    merged,
    require_adapter_weights,
    tensors_drawn,
)
from redpencil.models.attention import install, is_installed
from redpencil.models.configs import (
    Head,
    is_classifier,
    read_config,
    require,
    with_layers,
)
from redpencil.models.gated import hold_fewer_activations
from redpencil.models.head import unwrap
from redpencil.models.locate import (
    Located,
    adapter_base,
    locate,
    require_unchanged,
    require_weights,
)
from redpencil.models.norms import install_norms
from redpencil.models.positions import forget_longer_calls
from redpencil.models.quiet import in_one_sentence
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
    model, drawn = read(found, dtype, trust_remote_code, head, new_head or 0)
    if new_head is None:
        require_head(found, drawn)
    with in_one_sentence(f"{found.name} cannot be used: its model, as config.json has it, fails"):
        model = model.to(device).eval()
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device))
    equip(model)
    return model


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
    model = skeleton(root_of(locate(name)), dtype, layers, trust_remote_code, head, device)
    equip(model)
    disable_dropout(model)
    return (model if device is None else model.to(device)).train()


def root_of(found: Located) -> Located:
    """The model that an adapter stands on, by way of others or not; a model itself."""
    base = adapter_base(found)
    return found if base is None else root_of(locate(base))


def skeleton(
    found: Located,
    dtype: torch.dtype,
    layers: int | None,
    trust_remote_code: bool,
    head: Head,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """The model of a config alone, without storage, or random on the CPU for another device."""
    config = read_config(found, trust_remote_code)
    require(head, found, config)
    if layers is not None:
        config = with_layers(config, layers)
    on = torch.device("meta" if device is None else "cpu")
    with in_one_sentence(f"{found.name} has a config of which no model can be made"), on:
        if head == "reward":
            config.num_labels = 1
            text = config.get_text_config()
            text.pad_token_id = text.pad_token_id or 0  # any will do where nothing is read
        model: PreTrainedModel = _AUTO[head].from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    return model


def blank_like(model: PreTrainedModel) -> PreTrainedModel:
    """The same architecture on the meta device, in the same dtype, in training mode."""
    with in_one_sentence(f"no blank {type(model).__name__} can be made"), torch.device("meta"):
        blank = type(model)(copy.deepcopy(model.config)).to(model.dtype)
    equip(blank)
    if is_installed(model):
        install(blank)
    disable_dropout(blank)
    return blank.train()


def equip(model: PreTrainedModel) -> None:
    """The backward passes that are ours, and dynamic positions that depend on no call before."""
    forget_longer_calls(model)
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
            # Some begin to count behind an offset (OPT) or the padding id (RoBERTa).
            offset = getattr(module, "offset", None)
            behind = -1 if module.padding_idx is None else module.padding_idx
            return module.num_embeddings - (offset if isinstance(offset, int) else behind + 1)
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


def read(
    found: Located, dtype: torch.dtype, trust_remote_code: bool, head: Head, seed: int
) -> tuple[PreTrainedModel, list[str]]:
    """A model from its files on the CPU, an adapter merged into its base; and the names of the
    tensors that no file holds: a reward head's at most, drawn by the seed. Raises ModelError."""
    require_unchanged(found)
    base = adapter_base(found)
    if base is None:
        return _from_folder(found, dtype, trust_remote_code, head, seed)
    config = config_of_adapter(found, head)
    with as_base_of(found):
        model, drawn = read(locate(base), dtype, trust_remote_code, head, seed)
    model, drawn = merged(model, config, found), tensors_drawn(drawn, found)
    if head == "reward" and not drawn:
        _as_trained(model, found, trust_remote_code)
    return model, drawn


def _as_trained(model: PreTrainedModel, found: Located, trust_remote_code: bool) -> None:
    """A reward adapter with its head: the config says what the model is now, and its padding token,
    which says where rewards are read, is the one of the tokenizer that was saved beside it."""
    model.config.architectures = [type(model).__name__]
    assert found.folder is not None, "an adapter is known by its folder"
    if not (found.folder / "tokenizer_config.json").is_file():
        return
    pad = load_tokenizer(found.name, trust_remote_code=trust_remote_code).pad_token_id
    if pad is not None:
        model.config.get_text_config().pad_token_id = model.config.pad_token_id = pad


@contextmanager
def as_base_of(found: Located) -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        raise ModelError(
            f"{found.name} is an adapter whose base cannot be loaded: {error}"
        ) from None


def config_of_adapter(found: Located, head: Head) -> PeftConfig:
    """Raises ModelError where an adapter cannot be merged or is another head's."""
    config = adapter_config(found)
    require_adapter_weights(found)
    if head == "language" and is_reward_adapter(found):
        raise ModelError(f"{found.name} is the adapter of a reward model, which cannot write")
    return config


def _from_folder(
    found: Located, dtype: torch.dtype, trust_remote_code: bool, head: Head, seed: int
) -> tuple[PreTrainedModel, list[str]]:
    """What the weights lack must belong to a reward head."""
    config = read_config(found, trust_remote_code)
    require(head, found, config)
    require_weights(found)
    options: dict[str, Any] = {"num_labels": 1} if head == "reward" else {}
    with (
        in_one_sentence(f"the weights of {found.name} cannot be read"),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(seed)
        model, info = _AUTO[head].from_pretrained(
            found.source,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **options,
        )
    drawn = sorted(info["missing_keys"])
    lost = drawn
    if head == "reward" and not is_classifier(config):
        body = f"{model.base_model_prefix}."
        lost = [key for key in drawn if key.startswith(body) and ".pooler." not in key]
    if lost:
        raise ModelError(
            f"the weights of {found.name} are incomplete: {len(lost)} tensors are missing, "
            f"{lost[0]} among them"
        )
    return model, drawn


def require_head(found: Located, drawn: Sequence[str]) -> None:
    """Raises ModelError for a reward model whose head is in no file."""
    if drawn:
        raise ModelError(
            f"{found.name} is not a reward model: its weights have no reward head ({drawn[0]}), "
            "so its rewards would be random"
        )
