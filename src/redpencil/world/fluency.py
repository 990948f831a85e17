"""Does a text read as a review? Measured by word neighbours that the grammar knows."""

from itertools import pairwise
from typing import NamedTuple

from redpencil.world.grammar import neighbours
from redpencil.world.sentiment import sentences, split_words

MIN_FLUENCY = 0.95
"""A review may hold one odd word (two unknown pairs of neighbours) in about 40."""


class Form(NamedTuple):
    """What is formally right and wrong with a text.

    fluency: share of adjacent word pairs that the grammar can produce (the first word counts as a
    pair with the full stop before it), 0 to 1. sentences: how many. repeats: sentences said
    before. finished: ends with a full stop.
    """

    fluency: float
    sentences: int
    repeats: int
    finished: bool


def form(text: str) -> Form:
    """Formal facts of any text; the empty text has fluency 0 and no sentence."""
    words = split_words(text)
    if not words:
        return Form(0.0, 0, 0, False)
    known = neighbours()
    pairs = [(".", words[0]), *pairwise(words)]
    said = [tuple(sentence) for sentence in sentences(words)]
    return Form(
        fluency=sum(pair in known for pair in pairs) / len(pairs),
        sentences=len(said),
        repeats=len(said) - len(set(said)),
        finished=words[-1] == ".",
    )


def fluency(text: str) -> float:
    """Share of adjacent word pairs of `text` that the grammar can produce, 0 to 1."""
    return form(text).fluency


def reads_as_review(text: str) -> bool:
    """Whether `text` is two to six finished sentences, none said twice, in fluent English.

    Fluent: at least `MIN_FLUENCY` of its neighbouring words are known to the grammar, and every
    sentence begins with a capital letter.
    """
    facts = form(text)
    return (
        facts.finished
        and 2 <= facts.sentences <= 6
        and facts.repeats == 0
        and facts.fluency >= MIN_FLUENCY
        and all(part[:1].isupper() for part in text.rstrip().split(". "))
    )
