"""Reading the opinions in a text: which aspect, how strong, turned round or softened by what.

Works on any text. A sentence is read left to right: the longest phrase of the lexicon at each
position is an opinion; a degree adverb scales the next opinion, a negator turns it round, a comma
ends both. Of a sentence that turns ("X, but Y", "although X, Y"), the conceded side counts less.
"""

import re
from typing import NamedTuple

from redpencil.world.lexicon import ASPECT_OF, FILM, MODIFIERS, NEGATORS, OPINIONS

CONCEDED, ASSERTED = 0.6, 1.2
"""What an opinion counts on the conceded and on the asserted side of a turn; elsewhere 1."""

_TOKEN = re.compile(r"[a-z]+|[^\sa-z]")
_ENDS_SENTENCE = frozenset(".!?")
_ENDS_CLAUSE = frozenset((",", ";", ":", "but", "and", "although", "while", "despite"))
_TURNS = frozenset(("but", "still", "yet", "however"))
_CONCEDES = frozenset(("although", "while", "despite", "though"))


class Opinion(NamedTuple):
    """`phrase` of the lexicon says `value` about `aspect`, counted with `weight`."""

    phrase: str
    aspect: str
    value: float
    weight: float


def split_words(text: str) -> list[str]:
    """Words and punctuation marks of `text`, lower-cased, in order."""
    return _TOKEN.findall(text.lower())


def sentences(words: list[str]) -> list[list[str]]:
    """`words` cut after each full stop, exclamation or question mark."""
    cut: list[list[str]] = [[]]
    for word in words:
        cut[-1].append(word)
        if word in _ENDS_SENTENCE:
            cut.append([])
    return [sentence for sentence in cut if sentence]


def opinions(text: str) -> list[Opinion]:
    """Every opinion in `text`, in order."""
    return [found for sentence in sentences(split_words(text)) for found in _read(sentence)]


def strength(text: str) -> float:
    """Sum of the opinions in `text`, each times its weight: "not very witty" is -0.78."""
    return sum(o.value * o.weight for o in opinions(text))


def _phrases_by_first_word() -> dict[str, list[tuple[list[str], str]]]:
    table: dict[str, list[tuple[list[str], str]]] = {}
    for phrase in sorted(OPINIONS, key=lambda p: -len(p.split())):
        words = phrase.split()
        table.setdefault(words[0], []).append((words, phrase))
    return table


_PHRASES = _phrases_by_first_word()


def _phrase_at(words: list[str], at: int) -> tuple[str, int] | None:
    """The longest opinion that begins at `at`, and how many words it has."""
    for parts, phrase in _PHRASES.get(words[at], ()):
        if words[at : at + len(parts)] == parts:
            return phrase, len(parts)
    return None


def _read(words: list[str]) -> list[Opinion]:
    found: list[Opinion] = []
    weights = _turn_weights(words)
    scale, aspect, at = 1.0, FILM, 0
    while at < len(words):
        word = words[at]
        hit = _phrase_at(words, at)
        if hit:
            phrase, length = hit
            found.append(Opinion(phrase, aspect, scale * OPINIONS[phrase], weights[at]))
            scale, at = 1.0, at + length
            continue
        if word in _ENDS_CLAUSE or word in _ENDS_SENTENCE:
            scale = 1.0
            if word != "and":
                aspect = FILM
        elif word in ("i", "it"):
            aspect = FILM
        scale *= MODIFIERS.get(word, 1.0) * NEGATORS.get(word, 1.0)
        aspect = ASPECT_OF.get(word, aspect)
        at += 1
    return _attach(words, found)


def _attach(words: list[str], found: list[Opinion]) -> list[Opinion]:
    """Adjectives before their noun ("the thin plot") belong to the noun that follows at once."""
    text = " " + " ".join(words) + " "
    attached = []
    for opinion in found:
        after = re.search(rf" {re.escape(opinion.phrase)} ((?:[a-z]+ )?[a-z]+) ", text)
        if after and opinion.aspect == FILM:
            nouns = [ASPECT_OF[w] for w in after[1].split() if w in ASPECT_OF]
            attached.append(opinion._replace(aspect=nouns[0] if nouns else FILM))
        else:
            attached.append(opinion)
    return attached


def _turn_weights(words: list[str]) -> list[float]:
    """For each word what an opinion there counts: 1, or less and more around a turn."""
    for at, word in enumerate(words):
        if word in _TURNS and at > 0:
            return [CONCEDED] * at + [ASSERTED] * (len(words) - at)
        if word in _CONCEDES:
            comma = words.index(",", at) if "," in words[at:] else len(words)
            conceded = range(at, comma)
            return [CONCEDED if i in conceded else ASSERTED for i in range(len(words))]
    return [1.0] * len(words)
