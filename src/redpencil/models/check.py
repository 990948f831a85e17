"""What can be known of a folder before its weights are read: whether it will load, and as what.

A command asks first, before it opens its data or samples anything: a folder that cannot be used
should not cost the time that comes before it is used.
"""

from collections.abc import Iterable

import torch
from safetensors import safe_open
from torch import nn

from redpencil.errors import ModelError
from redpencil.models.adapters import is_reward_adapter, put_on, tensors_drawn
from redpencil.models.configs import Head, is_classifier, read_config, require
from redpencil.models.head import reward_head_modules, unwrap
from redpencil.models.load import (
    as_base_of,
    config_of_adapter,
    learned_positions,
    read,
    require_head,
    root_of,
    skeleton,
)
from redpencil.models.locate import Located, adapter_base, locate, require_weights
from redpencil.models.quiet import in_one_sentence
from redpencil.models.tokenizer import load_tokenizer
from redpencil.types import Example


def check_model(
    name: str,
    *,
    head: Head = "language",
    new_head: bool = False,
    weights: bool = True,
    trust_remote_code: bool = False,
) -> None:
    """Raises ModelError where `load_model` or `load_tokenizer` would, short of reading a model's
    weights: before a file of data is opened, or anything is sampled in vain.

    new_head: whether a reward head will be drawn where the weights have none. weights: whether a
    model's must be there; an adapter's must.
    """
    found = locate(name)
    _check(found, head, weights, trust_remote_code)
    if head == "reward" and not new_head:
        require_head(found, _headless(found, trust_remote_code))
    load_tokenizer(name, trust_remote_code=trust_remote_code)


def _check(found: Located, head: Head, weights: bool, trust_remote_code: bool) -> None:
    base = adapter_base(found)
    if base is None:
        skeleton(found, torch.float32, None, trust_remote_code, head)
        if weights:
            require_weights(found)
            _require_readable(found)
        return
    config = config_of_adapter(found, head)
    with as_base_of(found):
        _check(locate(base), head, weights, trust_remote_code)
    try:
        blank = skeleton(root_of(found), torch.float32, None, trust_remote_code, head)
        put_on(blank, config, found)
    except ModelError:  # some kinds of adapters cannot be put on weights that are not there
        if weights:
            read(found, torch.float32, trust_remote_code, head, seed=0)


def _headless(found: Located, trust_remote_code: bool) -> list[str]:
    """The tensors of a reward head that no file of a folder and its bases holds."""
    base = adapter_base(found)
    if base is not None:
        return tensors_drawn(_headless(locate(base), trust_remote_code), found)
    config = read_config(found, trust_remote_code)
    require("reward", found, config)
    if is_classifier(config):
        return []
    model = skeleton(found, torch.float32, None, trust_remote_code, "reward")
    heads = tuple(f"{name}." for name in reward_head_modules(model) if name != "pooler")
    return [name for name, _ in model.named_parameters() if name.startswith(heads)]


def gives_reward(name: str, *, trust_remote_code: bool = False) -> bool:
    """Whether these weights end in a reward head: a model's, or what an adapter says and brings."""
    found = locate(name)
    base = adapter_base(found)
    if base is None:
        return is_classifier(read_config(found, trust_remote_code))
    return is_reward_adapter(found) or gives_reward(base, trust_remote_code=trust_remote_code)


def check_examples(model: nn.Module, examples: Iterable[Example], name: str) -> None:
    """Raises ModelError where examples hold a token id that a model has no embedding for, or are
    longer than it has learned positions: it would fail in their midst, or on a GPU say nothing."""
    size = unwrap(model).get_input_embeddings().weight.shape[0]
    positions = learned_positions(model)
    for example in examples:
        origin = example.responses[0].origin
        for ids in (example.prompt_ids, *(r.ids for r in example.responses)):
            if len(ids) and int(ids.max()) >= size:
                raise ModelError(
                    f"{origin} has token id {int(ids.max())}, but {name} knows only ids below "
                    f"{size}; the tokenizer belongs to another model"
                )
        longest = len(example.prompt_ids) + max(len(r.ids) for r in example.responses)
        if positions is not None and longest > positions:
            raise ModelError(
                f"{origin} has {longest} tokens with its prompt, but {name} has learned "
                f"{positions} positions; use a shorter --max-length"
            )


def _require_readable(found: Located) -> None:
    """Raises ModelError where a file of weights is cut or garbage; only its head is read."""
    for path in sorted(found.folder.glob("*.safetensors")) if found.folder else ():
        with (
            in_one_sentence(f"the weights of {found.name} cannot be read: {path.name}"),
            safe_open(path, "pt"),
        ):
            pass
