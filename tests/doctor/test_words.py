"""The bag of words: a planted word is found, chance is chance, and the fit is the optimum."""

import math
import random

import numpy as np
import pytest

from redpencil.doctor.numbers.logistic import (
    Differences,
    fit,
    fold_of,
    held_out_scores,
    right_share,
)
from redpencil.doctor.numbers.sample import PairSample, Sampled
from redpencil.doctor.numbers.shortcuts import CLEARLY, WordShortcut
from redpencil.doctor.numbers.words import BEGIN, END, bag_of_words, features, words_of
from redpencil.doctor.view import View, hash_of
from redpencil.types import Origin

WORDS = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(300)]


def pair(prompt, chosen, rejected, row=None):
    key = hash_of(prompt)
    return Sampled(key, key if row is None else row, chosen, rejected)


def random_pairs(count, seed=0):
    rng = random.Random(seed)

    def text():
        return " ".join(rng.choices(WORDS, k=12))

    return [pair(f"p{n}", text(), text()) for n in range(count)]


def test_words_of_several_scripts():
    assert words_of("Don’t stop, 12!") == [BEGIN, "don’t", "stop", ",", "12", "!", END]
    assert words_of("재미있다 정말") == [BEGIN, "재미있다", "정말", END]
    assert words_of("日本 ok") == [BEGIN, "日", "本", "ok", END]


def test_one_feature_has_the_coefficient_of_its_equation():
    """40 pairs with the feature on the chosen side, 10 on the rejected one: the optimum solves
    40 sigma(-b) - 10 sigma(b) = l2 b."""
    values = np.array([1.0] * 40 + [-1.0] * 10)
    data = Differences(
        row=np.arange(50),
        column=np.zeros(50, dtype=np.int64),
        values=values,
        weight=np.ones(50),
        group=np.arange(50, dtype=np.uint64),
        columns=1,
    )
    (b,) = fit(data, l2=2.0)
    assert 40 / (1 + math.exp(b)) - 10 / (1 + math.exp(-b)) == pytest.approx(2 * b, abs=1e-3)
    assert right_share(held_out_scores(data)).mean() == 0.8


def test_features_are_differences_by_hand():
    pairs = [pair(f"p{n}", "good day", "bad day") for n in range(6)]
    data, names = features(pairs)
    dense = np.zeros((6, data.columns))
    dense[data.row, data.column] = data.values
    told = {name: dense[0, column] for column, name in enumerate(names)}
    assert told == {
        "good": 1.0,
        "bad": -1.0,
        "good day": 1.0,
        "bad day": -1.0,
        "begins with good": 1.0,
        "begins with bad": -1.0,
    }


def test_a_planted_word_is_found_with_its_counts():
    pairs = [
        pair(f"p{n}", f"{p.chosen} certainly", p.rejected) if n % 2 else p
        for n, p in enumerate(random_pairs(400))
    ]
    found = bag_of_words(pairs)
    assert found.rows == 400
    # Half of the pairs have the word, of the others half are right by chance.
    assert found.interval[0] < 0.75 < found.interval[1]
    loudest = {word.text: (word.chosen, word.rejected) for word in found.preferred}
    assert loudest["certainly"] == (200, 0)
    assert loudest["ends with certainly"] == (200, 0)


def test_random_labels_are_chance():
    """Six sets of 300: the mean is one half within three standard errors of 1,800 coins (0.035),
    and no set is a finding."""
    found = [bag_of_words(random_pairs(300, seed=seed)) for seed in range(10, 16)]
    assert np.mean([f.accuracy for f in found]) == pytest.approx(0.5, abs=0.035)
    assert all(f.interval[0] < CLEARLY for f in found)


def test_copies_of_a_prompt_are_on_one_side_of_a_split():
    """Each pair ten times: who splits rows and not prompts learns the random labels by heart."""
    pairs = [p for p in random_pairs(60, seed=2) for _ in range(10)]
    assert len({int(fold_of(np.uint64(p.prompt_hash))) for p in pairs[:10]}) == 1
    found = bag_of_words(pairs)
    assert found.interval[0] < 0.6


def test_a_stem_within_korean_words_is_found():
    rng = random.Random(3)
    endings = ["습니다", "었어요", "는데요", "네요", "지요", "고요"]
    pairs = [
        pair(f"p{n}", f"재미있{rng.choice(endings)}", f"지루하{rng.choice(endings)}")
        for n in range(60)
    ]
    found = bag_of_words(pairs)
    assert found.accuracy == 1.0
    assert "…재미…" in {w.text for w in found.preferred}
    assert "…지루…" in {w.text for w in found.avoided}


def test_comparisons_of_one_row_count_as_one():
    pairs = [pair(f"p{n}", "good", "bad", row=n) for n in range(10) for _ in range(7)]
    assert bag_of_words(pairs).rows == 10


def test_too_few_prompts_say_nothing():
    assert bag_of_words([pair("p", "good", "bad")] * 50) is None


def view_of(number, chosen="good answer", rejected="bad answer", prompt=None):
    prompt = prompt or f"p{number}"
    origin = Origin("f", number)
    return View(origin, prompt, (chosen, rejected), ((0, 1),), hash_of(prompt), True)


def test_the_sample_is_bounded_and_takes_whole_prompts_in_any_order():
    rows = [view_of(n, prompt=f"p{n // 3}") for n in range(3000)]
    one, other = PairSample(pairs=200), PairSample(pairs=200)
    for row in rows:
        one.see(row)
    for row in reversed(rows):
        other.see(row)
    assert 50 < len(one.sampled()) <= 200
    assert not one.complete
    kept = sorted(p.prompt_hash for p in one.sampled())
    assert kept == sorted(p.prompt_hash for p in other.sampled())
    assert all(kept.count(key) == 3 for key in kept)


def test_the_sample_is_bounded_in_characters():
    sample = PairSample(characters=10_000)
    for number in range(500):
        sample.see(view_of(number, chosen="x" * 300))
    assert sum(len(p.chosen) + len(p.rejected) for p in sample.sampled()) <= 10_000


def test_the_finding_names_the_words():
    check = WordShortcut()
    for number, p in enumerate(random_pairs(100, seed=4)):
        check.see(view_of(number, chosen=f"Sure! {p.chosen}", rejected=p.rejected))
    (found,) = check.findings(100)
    assert found.severity == "warning"
    assert "“begins with sure” (100 : 0)" in found.example
    assert check.statistics()["words_accuracy"]["share"] == 1.0
