import random
from itertools import pairwise

import numpy as np
import pytest

from redpencil.world.grammar import MOODS, neighbours, review, review_in_mood, vocabulary
from redpencil.world.productions import PLAIN, PRODUCTIONS, SENTENCES
from redpencil.world.sentiment import opinions, sentences, split_words


def test_equal_seeds_write_equal_reviews():
    one, two = random.Random(5), random.Random(5)
    assert [review(one) for _ in range(20)] == [review(two) for _ in range(20)]


def test_lengths():
    rng = random.Random(0)
    words = [split_words(review(rng)) for _ in range(2000)]
    counts = np.array([len(w) for w in words])
    assert 38 < counts.mean() < 47 and counts.max() <= 100
    assert {len(sentences(w)) for w in words} == {2, 3, 4, 5}
    assert 400 <= len(vocabulary()) <= 800


def test_neighbours_are_exact():
    rng = random.Random(1)
    seen = set()
    for _ in range(20000):
        seen.update(pairwise(split_words(review(rng))))
    assert seen <= neighbours()
    assert len(seen) > 0.75 * len(neighbours())


def test_every_hole_has_productions_and_every_production_is_reached():
    named = {part for lines in PRODUCTIONS.values() for line in lines for part in _holes(line)}
    named |= {part for line in SENTENCES.values() for part in _holes(line)}
    assert named == set(PRODUCTIONS)


def test_neutral_phrases_hold_no_opinion():
    for lines in PLAIN.values():
        for line in lines:
            assert opinions(line) == [], line


@pytest.mark.parametrize("mood", MOODS)
def test_a_review_says_no_opinion_word_twice(mood):
    rng = random.Random(mood)
    for _ in range(100):
        said = [opinion.phrase for opinion in opinions(review_in_mood(rng, mood))]
        assert len(said) <= 14 and said
        text = review_in_mood(rng, mood)
        assert len(set(map(tuple, sentences(split_words(text))))) == len(
            sentences(split_words(text))
        )
        assert " a a" not in text and " a e" not in text and " a u" not in text


def _holes(line):
    return [part.split(">")[0] for part in line.split("<")[1:]]
