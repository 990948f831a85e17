"""A response's text in pieces, one for each token where that is possible."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from redpencil.data.tokenize import readable

Span = tuple[int, int]
"""Tokens [begin, end) of a response."""

CONTEXT = 8
"""Prompt tokens before a response that decide how its first ones read."""

UNFINISHED = "\ufffd"
"""What a decoder says of bytes that do not make a character yet."""


def text_pieces(
    ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, *, after: np.ndarray
) -> list[tuple[str, Span]]:
    """Pieces of `readable(ids, after=after)`, whose texts concatenate to it exactly, each with the
    tokens it is of; the spans follow one another and cover all.

    Tokens that only together make a character, as the bytes of an emoji, are one piece. A special
    token (end of text) is a piece without text.
    """
    whole = readable(ids, tokenizer, after=after)
    pieces = list(_one_by_one(ids, tokenizer, after))
    if "".join(text for text, _ in pieces) != whole:  # a decoder that looks back further
        pieces = list(_by_beginnings(ids, tokenizer, after, whole))
    assert "".join(text for text, _ in pieces) == whole, (whole, pieces)
    return pieces


def _one_by_one(
    ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, after: np.ndarray
) -> Iterator[tuple[str, Span]]:
    """Each piece is what its tokens add to the text of the piece before."""
    special = set(tokenizer.all_special_ids)
    before = [i for i in after.tolist() if i not in special][-CONTEXT:]
    begin, tokens = 0, ids.tolist()
    for at, token in enumerate(tokens):
        if token in special:
            if begin < at:  # bytes that nothing will complete
                yield _decoded(tokenizer, tokens[begin:at]), (begin, at)
            yield "", (at, at + 1)
            begin = at + 1
            continue
        known = _decoded(tokenizer, before)
        text = _decoded(tokenizer, [*before, *tokens[begin : at + 1]])
        if len(text) > len(known) and not text.endswith(UNFINISHED):
            yield text[len(known) :], (begin, at + 1)
            before, begin = tokens[begin : at + 1], at + 1
    if begin < len(tokens):
        text = _decoded(tokenizer, [*before, *tokens[begin:]])
        yield text[len(_decoded(tokenizer, before)) :], (begin, len(tokens))


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _by_beginnings(
    ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, after: np.ndarray, whole: str
) -> Iterator[tuple[str, Span]]:
    """A piece ends wherever the text of all tokens so far begins the whole text. Slow and sure."""
    ends, lengths = [0], [0]
    for end in range(1, len(ids)):
        text = readable(ids[:end], tokenizer, after=after)
        if whole.startswith(text) and len(text) >= lengths[-1]:
            ends.append(end)
            lengths.append(len(text))
    ends.append(len(ids))
    lengths.append(len(whole))
    spans = itertools.pairwise(ends)
    texts = (whole[a:b] for a, b in itertools.pairwise(lengths))
    return zip(texts, spans, strict=True)
