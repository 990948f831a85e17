"""Text in pieces: they concatenate to it whatever the tokenizer does to characters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from redpencil.data.pieces import text_pieces
from redpencil.data.tokenize import readable


@pytest.fixture(scope="module")
def of_bytes():
    """Every byte is a token, so that characters are split over tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)} | {"<end>": len(alphabet)}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


def ids_of(tokenizer, text):
    return np.array(tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)


def checked(ids, tokenizer, after):
    pieces = text_pieces(ids, tokenizer, after=after)
    assert "".join(text for text, _ in pieces) == readable(ids, tokenizer, after=after)
    ends = [0]
    for _, (begin, end) in pieces:
        assert begin == ends[-1] < end
        ends.append(end)
    assert ends[-1] == len(ids)
    return pieces


def test_bytes_of_a_character_are_one_piece(of_bytes):
    ids = np.append(ids_of(of_bytes, "a한🙂b"), of_bytes.eos_token_id)
    pieces = checked(ids, of_bytes, ids_of(of_bytes, "prompt:"))
    assert pieces == [("a", (0, 1)), ("한", (1, 4)), ("🙂", (4, 8)), ("b", (8, 9)), ("", (9, 10))]


def test_a_character_that_is_cut_off(of_bytes):
    ids = ids_of(of_bytes, "ab🙂")[:-1]
    pieces = checked(ids, of_bytes, ids_of(of_bytes, "p"))
    assert [span for _, span in pieces] == [(0, 1), (1, 2), (2, 5)]
    ended = np.append(ids, of_bytes.eos_token_id)
    assert checked(ended, of_bytes, ids_of(of_bytes, "p"))[-1] == ("", (5, 6))


@settings(max_examples=60, deadline=None)
@given(prompt=st.text(max_size=6), text=st.text(max_size=20), cut=st.integers(0, 4))
def test_any_text(of_bytes, prompt, text, cut):
    ids = ids_of(of_bytes, text)
    checked(ids[: max(len(ids) - cut, 0)], of_bytes, ids_of(of_bytes, prompt))


def test_real_tokenizers(shared_data, toys):
    tokenizers = [
        AutoTokenizer.from_pretrained(shared_data / "stories260K"),
        AutoTokenizer.from_pretrained(shared_data / "tokenizers-small"),
        toys.gpt2(shared_data / "tokenizer-gpt2"),
    ]
    texts = [" I’ve  two spaces,\n\ntabs\t한국어 🙂🙂 café.", "a", " the", "\n", "\ufffdx"]
    for tokenizer in tokenizers:
        for text in texts:
            for prompt in ("Human: hello", "", " x"):
                checked(ids_of(tokenizer, text), tokenizer, ids_of(tokenizer, prompt))
