"""Is the answer in the words? A bag of words that guesses which response was chosen.

Features of a response are the words in it, pairs of neighbouring words, and the words it begins and
ends with; only whether they are there counts. In Korean also the pairs of syllables within a
word, so that endings do not hide a stem; Chinese and Japanese characters are words.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from redpencil.doctor.numbers.logistic import Differences, fit, held_out_scores, right_share
from redpencil.doctor.numbers.sample import Sampled
from redpencil.intervals import wilson_interval

LARGEST_VOCABULARY = 20_000
"""Words that may be features; of more, the most frequent ones."""
LARGEST_COUNT = 400_000
"""Different words counted before the rarest are forgotten."""
MOST_FEATURES = 100_000
RAREST = 3
"""Pairs of responses that a feature must tell apart."""
SHOWN = 8
SURE = 3.0
"""Standard errors: how sure the counts of a feature that is shown must be."""

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W\d_{_CJK}]+(?:['’][^\W\d_{_CJK}]+)*|\d+|[^\w\s]")
_HANGUL = re.compile(r"[\uac00-\ud7a3]{3,}")
BEGIN, END = "<begin>", "<end>"


@dataclass(frozen=True, slots=True)
class Word:
    """One feature: in how many pairs only the chosen, only the rejected response has it."""

    text: str
    chosen: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Words:
    """What the bag of words achieves on prompts that it was not fitted to.

    accuracy: held out, every row counts once; interval: 95 %, Wilson. rows: how many rows.
    preferred, avoided: the features that count most, in either direction.
    """

    accuracy: float
    interval: tuple[float, float]
    rows: int
    preferred: tuple[Word, ...]
    avoided: tuple[Word, ...]


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, between a beginning and an end."""
    return [BEGIN, *_WORD.findall(text.lower()), END]


def bag_of_words(pairs: Sequence[Sampled]) -> Words | None:
    """Fit, cross-validated by prompt; None where there are too few pairs or words to say."""
    if len({p.prompt_hash for p in pairs}) < 2 * RAREST:
        return None
    data, names = features(pairs)
    if not data.columns:
        return None
    right = right_share(held_out_scores(data))
    rows = round(data.weight.sum())
    accuracy = float(data.weight @ right / data.weight.sum())
    low, high = wilson_interval(accuracy, rows)
    preferred, avoided = _loudest(data, names)
    return Words(accuracy, (low, high), rows, preferred, avoided)


def features(pairs: Sequence[Sampled]) -> tuple[Differences, list[str]]:
    """The pairs as differences of features, and the features' names."""
    vocabulary = _vocabulary(pairs)
    codes = [(_codes(p.chosen, vocabulary), _codes(p.rejected, vocabulary)) for p in pairs]
    sizes, found, signs = [], [], []
    for chosen, rejected in codes:
        only_chosen = np.setdiff1d(chosen, rejected, assume_unique=True)
        only_rejected = np.setdiff1d(rejected, chosen, assume_unique=True)
        sizes.append(len(only_chosen) + len(only_rejected))
        found += [only_chosen, only_rejected]
        signs += [np.ones(len(only_chosen)), -np.ones(len(only_rejected))]
    row = np.repeat(np.arange(len(pairs)), sizes)
    code, values = np.concatenate(found), np.concatenate(signs)
    distinct, column, counts = np.unique(code, return_inverse=True, return_counts=True)
    often = counts >= RAREST
    if often.sum() > MOST_FEATURES:
        often = counts > np.sort(counts)[-MOST_FEATURES]
    number = np.cumsum(often) - 1
    kept = often[column]
    names = list(vocabulary)
    data = Differences(
        row=row[kept],
        column=number[column[kept]],
        values=values[kept],
        weight=_once_a_row(pairs),
        group=np.array([p.prompt_hash for p in pairs], dtype=np.uint64),
        columns=int(often.sum()),
    )
    return data, [_name(int(c), names) for c in distinct[often]]


def _vocabulary(pairs: Iterable[Sampled]) -> dict[str, int]:
    """Words by how many responses have them, the most frequent numbered first."""
    counts: Counter[str] = Counter()
    for pair in pairs:
        for text in (pair.chosen, pair.rejected):
            counts.update(set(_singles(words_of(text))))
        if len(counts) > LARGEST_COUNT:
            counts = Counter({w: n for w, n in counts.items() if n > 1})
    often = [w for w, n in counts.most_common(LARGEST_VOCABULARY) if n >= RAREST]
    return {word: number for number, word in enumerate(often)}


def _singles(words: Sequence[str]) -> Iterable[str]:
    yield from words
    for word in words:
        if _HANGUL.fullmatch(word):
            yield from (f"~{a}{b}~" for a, b in pairwise(word))


def _codes(text: str, vocabulary: dict[str, int]) -> np.ndarray:
    """Sorted distinct numbers of the features of a text: a word's own, or of two neighbours
    (first + 1) * vocabulary + second."""
    words = words_of(text)
    size = len(vocabulary)
    singles = [vocabulary[w] for w in _singles(words) if w in vocabulary]
    numbers = np.array([vocabulary.get(w, -1) for w in words], dtype=np.int64)
    first, second = numbers[:-1], numbers[1:]
    known = (first >= 0) & (second >= 0)
    return np.unique(
        np.concatenate(
            [np.array(singles, dtype=np.int64), (first[known] + 1) * size + second[known]]
        )
    )


def _name(code: int, names: Sequence[str]) -> str:
    if code < len(names):
        return names[code].replace("~", "…") if names[code].startswith("~") else names[code]
    first, second = names[code // len(names) - 1], names[code % len(names)]
    if first == BEGIN:
        return f"begins with {second}"
    return f"ends with {first}" if second == END else f"{first} {second}"


def _once_a_row(pairs: Sequence[Sampled]) -> np.ndarray:
    """(T,) weights: the comparisons of one row count as one, for they are not independent."""
    _, row, counts = np.unique([p.row for p in pairs], return_inverse=True, return_counts=True)
    return 1.0 / counts[row]


def _loudest(data: Differences, names: Sequence[str]) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """The features with most to say, counted in the pairs: a coefficient times the root of how
    many pairs it speaks in. Only those whose counts say so by themselves, three standard errors
    from a coin's: where coefficient and counts disagree, other words do the work."""
    b = fit(data)
    chosen = np.bincount(data.column[data.values > 0], minlength=data.columns)
    rejected = np.bincount(data.column[data.values < 0], minlength=data.columns)
    lead, pairs = chosen - rejected, chosen + rejected
    clear = (lead * lead > SURE * SURE * pairs) & (np.sign(b) == np.sign(lead))
    said = np.where(clear, b * np.sqrt(pairs), 0.0)
    order = np.argsort(-said, kind="stable")

    def told(columns: Iterable[int], sign: int) -> tuple[Word, ...]:
        return tuple(
            Word(names[c], int(chosen[c]), int(rejected[c])) for c in columns if said[c] * sign > 0
        )

    return told(order[:SHOWN].tolist(), 1), told(order[::-1][:SHOWN].tolist(), -1)
