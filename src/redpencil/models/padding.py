"""The padding token of a reward model, which says where its reward is read.

A sequence classifier of transformers reads its score at the rightmost token that is not padding.
One whose padding token is its end token, as many have it, is read before the end token. A reward
model that was trained so keeps it; a new one gets a padding token that no response ends with, and
is read at the end token itself.
"""

from collections.abc import Iterable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from redpencil.models.configs import is_classifier

NEW_PAD = "<|pad|>"

_MADE_FOR_IT = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|vision_pad|>")
"""Tokens that vocabularies hold for padding, named as padding or not."""


def settle_padding(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: Iterable[int]
) -> str | None:
    """Give model and tokenizer one padding token; says what was changed, or where rewards are read.

    A reward model keeps its own, and the tokenizer takes it over. Where a head is new it is none of
    `ends`, all tokens that a response may end with: a token that the vocabulary holds is taken
    before a new one is added, for which the embedding grows by a row where it has none to spare.
    """
    taken = {*ends, tokenizer.eos_token_id}
    own = own_padding(model)
    if own is not None:
        return _keep(own, model, tokenizer, taken)
    before = tokenizer.pad_token_id
    if before is None or before in taken:
        # Where it is not in the vocabulary this adds it.
        tokenizer.add_special_tokens({"pad_token": _free_token(tokenizer, taken) or NEW_PAD})
    pad = tokenizer.pad_token_id
    assert pad is not None and pad not in taken, (pad, taken)
    rows = model.get_input_embeddings().weight.shape[0]
    if pad >= rows:
        model.resize_token_embeddings(pad + 1, mean_resizing=False)
        model.get_input_embeddings().weight.data[rows:] = 0.0  # not noise: the same at every start
    config = model.config.get_text_config()
    unchanged = before == pad and config.pad_token_id == pad
    config.pad_token_id = model.config.pad_token_id = pad
    if unchanged:
        return None
    why = "there was none" if before is None else "a response can end with the one there was"
    why = "the model's was another" if before == pad else why
    added = ", added to the vocabulary" if pad >= rows else ""
    return f"padding token {tokenizer.pad_token!r} (id {pad}{added}): {why}"


def own_padding(model: PreTrainedModel) -> int | None:
    """The padding token that a reward model's head was trained with; None where the head is new, or
    no token of the model is one: then it is read at the last token of all."""
    pad = model.config.get_text_config().pad_token_id
    rows = model.get_input_embeddings().weight.shape[0]
    return pad if is_classifier(model.config) and pad is not None and 0 <= pad < rows else None


def _keep(
    own: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: set[int]
) -> str | None:
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = own
    token = tokenizer.convert_ids_to_tokens(own)
    changed = isinstance(token, str) and tokenizer.pad_token_id != own
    if changed:
        tokenizer.pad_token = token
    named = f"padding token {token!r} (id {own})"
    if own in ends:
        return f"{named}: the reward model's own, so rewards are read before the end token"
    return f"{named}: the reward model's own, not the tokenizer's" if changed else None


def _free_token(tokenizer: PreTrainedTokenizerBase, taken: set[int]) -> str | None:
    """A token of the vocabulary that may pad: one made for it, else the unknown one."""
    vocabulary = tokenizer.get_vocab()
    unknown = tokenizer.unk_token
    for token in (*_MADE_FOR_IT, *([unknown] if isinstance(unknown, str) else [])):
        if token in vocabulary and vocabulary[token] not in taken:
            return token
    return None
