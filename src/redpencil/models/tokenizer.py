"""What a model reads: its tokenizer, and how many tokens it was made for, without its weights."""

import sys

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from redpencil.errors import ModelError
from redpencil.models.configs import read_config
from redpencil.models.locate import adapter_base, check_objects, locate
from redpencil.models.quiet import in_one_sentence


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub name. Raises ModelError, also if it has no EOS."""
    found = locate(name)
    base = adapter_base(found)
    if base is not None and found.folder and not (found.folder / "tokenizer_config.json").exists():
        return load_tokenizer(base, trust_remote_code=trust_remote_code)
    check_objects(found)
    with in_one_sentence(f"{name} has no usable tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(found.source, trust_remote_code=trust_remote_code)
    if not isinstance(tokenizer.model_max_length, int | float):
        raise ModelError(
            f"{name} has no usable tokenizer: its model_max_length is "
            f"{tokenizer.model_max_length!r}, which is no number"
        )
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token  # an encoder's: [CLS] text [SEP]
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {name} has no end-of-sequence token, so no response could end; "
            'name one as "eos_token" in its tokenizer_config.json'
        )
    return tokenizer


def require_same_tokens(
    one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, *, name: str, reference: str
) -> None:
    """Raises ModelError where a model and its reference do not read the same token ids."""
    if one.get_vocab() != other.get_vocab():
        raise ModelError(
            f"the reference {reference} has another tokenizer than {name}; log-probabilities of "
            "the same token ids would not be of the same text"
        )


def context_length(name: str, *, trust_remote_code: bool = False) -> int:
    """Most positions the model was made for; sys.maxsize where its config sets no bound."""
    found = locate(name)
    base = adapter_base(found)
    if base is not None:
        return context_length(base, trust_remote_code=trust_remote_code)
    return positions_of(read_config(found, trust_remote_code))


def positions_of(config: PreTrainedConfig) -> int:
    """The same of a config."""
    config = config.get_text_config()
    taken = config.pad_token_id + 1 if config.model_type in BEHIND_PADDING else 0
    for key in ("max_position_embeddings", "max_sequence_length", "max_seq_len"):
        if isinstance(getattr(config, key, None), int):
            return int(getattr(config, key)) - taken
    return sys.maxsize


BEHIND_PADDING = frozenset(
    {"camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta"}
    | {"roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)
"""Architectures that number positions from the one behind their padding id on, so that of 514
positions 512 can be used."""
