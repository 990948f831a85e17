"""A seeded probabilistic grammar of English film reviews with a latent mood.

A review has a mood from -2 (scathing) to +2 (delighted). The mood decides how likely each body
sentence and the verdict are to praise, to blame or to turn ("the plot was dull, but the acting was
superb"), and how strong the words are: among the alternatives that fit, one with strength s is
taken with a probability proportional to exp(mood * s / 2).
"""

import math
import random
import re
from functools import cache
from itertools import pairwise

from redpencil.world.productions import PRODUCTIONS, SENTENCES, STICKY
from redpencil.world.sentiment import split_words, strength

MOODS = (-2, -1, 0, 1, 2)

PRAISE = {-2: 0.04, -1: 0.25, 0: 0.5, 1: 0.75, 2: 0.96}
"""Mood -> probability that a sentence ends on the good side."""
TURN = {-2: 0.15, -1: 0.35, 0: 0.5, 1: 0.35, 2: 0.15}
"""Mood -> probability that a body sentence turns from one side to the other."""

_HOLE = re.compile(r"<([^>]+)>")
_TOKEN = re.compile(r"[A-Za-z]+|[^\sA-Za-z]")


class _Expander:
    """Expands templates for one review, remembering what this review must not change or repeat."""

    def __init__(self, rng: random.Random, mood: int) -> None:
        self.rng = rng
        self.mood = mood
        self.used: set[str] = set()
        self.sticky = {name: rng.choice(options) for name, options in STICKY.items()}

    def expand(self, template: str) -> str:
        return _HOLE.sub(lambda hole: self._fill(hole[1]), template)

    def _fill(self, name: str) -> str:
        if name in STICKY:
            return self.sticky[name]
        options = PRODUCTIONS[name]
        fresh = tuple(option for option in options if _memory(option) not in self.used)
        options = fresh or options
        weights = [math.exp(self.mood * _lean(option) / 2) for option in options]
        option = self.rng.choices(options, weights)[0]
        if (memory := _memory(option)) is not None:
            self.used.add(memory)
        return self.expand(option)


@cache
def _memory(option: str) -> str | None:
    """What a review remembers of a choice, so as not to make it twice: a word, or an aspect.

    "a dull" and "dull" are the same word; "<story.claim+>" and "<story.flaw->" the same aspect.
    Other templates may be used again: None is never remembered.
    """
    if _HOLE.fullmatch(option):
        return option[1:].split(".")[0]
    if "<" in option:
        return None
    return option.removeprefix("a ").removeprefix("an ").lower()


@cache
def _lean(option: str) -> float:
    """How strong the opinion of a choice is; 0 for templates, whose words are chosen later."""
    return 0.0 if "<" in option else strength(option)


def review(rng: random.Random) -> str:
    """One review of two to five sentences, with a mood drawn uniformly from `MOODS`."""
    return review_in_mood(rng, rng.choice(MOODS))


def review_in_mood(rng: random.Random, mood: int) -> str:
    """One review in a given mood from -2 to +2: an opening, one to three sentences, a verdict."""
    expander = _Expander(rng, mood)
    kinds = []
    if rng.random() < 0.75:
        kinds.append("opening")
        if rng.random() < 0.25:
            kinds.append("filler")
    side = "-"
    for _ in range(rng.choices((1, 2, 3), (0.25, 0.5, 0.25))[0]):
        side = "+" if rng.random() < PRAISE[mood] else "-"
        kinds.append(("turn" if rng.random() < TURN[mood] else "simple") + side)
    if len(kinds) < 2 or rng.random() < 0.95:
        if rng.random() > 0.9:
            side = "+" if rng.random() < PRAISE[mood] else "-"
        kinds.append("verdict" + side)
    sentences: list[str] = []
    for kind in kinds[:5]:
        sentence = expander.expand(SENTENCES[kind])
        sentences.append(sentence[0].upper() + sentence[1:])
    return " ".join(sentences)


@cache
def neighbours() -> frozenset[tuple[str, str]]:
    """Every pair of adjacent words (lower case) that the grammar can produce, computed exactly.

    Includes pairs across a full stop: any sentence may follow any other.
    """
    edges = {name: _edges(name) for name in PRODUCTIONS}
    pairs: set[tuple[str, str]] = set()
    for template in (*SENTENCES.values(), *(o for opts in PRODUCTIONS.values() for o in opts)):
        parts = _parts(template)
        for left, right in pairwise(parts):
            lasts = edges[left[1:-1]][1] if left[0] == "<" else {left}
            firsts = edges[right[1:-1]][0] if right[0] == "<" else {right}
            pairs.update((a, b) for a in lasts for b in firsts)
    for template in SENTENCES.values():
        first = _parts(template)[0]
        pairs.update((".", word) for word in _edges(first[1:-1])[0])
    return frozenset(pairs)


@cache
def openers() -> frozenset[str]:
    """Every word (lower case) that can begin a sentence."""
    return frozenset(b for a, b in neighbours() if a == ".")


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word the grammar can write, as written inside a sentence, and its marks; sorted."""
    found: set[str] = set()
    for template in (*SENTENCES.values(), *(o for opts in PRODUCTIONS.values() for o in opts)):
        found.update(_TOKEN.findall(_HOLE.sub(" ", template)))
    return tuple(sorted(found))


def _parts(template: str) -> list[str]:
    """`template` as lower-case words and <nonterminals>, in order."""
    parts: list[str] = []
    for piece in re.split(r"(<[^>]+>)", template):
        parts.extend([piece] if piece.startswith("<") else split_words(piece))
    return parts


@cache
def _edges(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """Words that a nonterminal can begin with, and end with."""
    firsts: set[str] = set()
    lasts: set[str] = set()
    for option in PRODUCTIONS[name]:
        parts = _parts(option)
        for part, end, into in ((parts[0], 0, firsts), (parts[-1], 1, lasts)):
            into.update(_edges(part[1:-1])[end] if part[0] == "<" else {part})
    return frozenset(firsts), frozenset(lasts)
