"""Words of the review world: what each opinion is worth, and how its neighbours change it.

One table, `OPINIONS`, serves both sides: the grammar prefers words whose strength fits the mood of
a review, and the true reward adds the same numbers up. Strengths run from -2 (atrocious) over
-1 (dull) and +1 (solid) to +2 (superb).
"""

from typing import NamedTuple


class Aspect(NamedTuple):
    """One side of a film that reviews talk about, with the words that fit it.

    `mild` and `strong` hold adjectives, good ones under "+", bad ones under "-". `verbs`
    holds predicates in the past tense, which is the same for one and many: "fell apart".
    """

    singular: tuple[str, ...]
    plural: tuple[str, ...]
    mild: dict[str, tuple[str, ...]]
    strong: dict[str, tuple[str, ...]]
    verbs: dict[str, tuple[str, ...]]


def _words(good: str, bad: str) -> dict[str, tuple[str, ...]]:
    return {"+": tuple(good.split()), "-": tuple(bad.split())}


ASPECTS = {
    "story": Aspect(
        ("plot", "story", "script", "screenplay", "final act", "ending"),
        ("twists", "subplots"),
        _words(
            "clever engaging thoughtful inventive intriguing satisfying",
            "predictable thin muddled contrived confusing unconvincing",
        ),
        _words(
            "gripping brilliant ingenious unforgettable", "ridiculous tedious incoherent dreadful"
        ),
        {
            "+": (
                "kept me guessing",
                "came together beautifully",
            ),
            "-": (
                "went nowhere",
                "fell apart",
            ),
        },
    ),
    "acting": Aspect(
        ("acting", "cast", "lead performance", "leading man", "leading lady"),
        ("performances", "leads", "supporting actors", "child actors"),
        _words(
            "natural convincing charming assured likable sincere",
            "wooden stiff bland awkward unconvincing lifeless",
        ),
        _words("superb outstanding mesmerizing magnificent", "terrible atrocious laughable awful"),
        {
            "+": (
                "carried every scene",
                "stole the show",
            ),
            "-": (
                "never convinced me",
                "lacked energy",
            ),
        },
    ),
    "look": Aspect(
        ("photography", "camera work", "production design", "scenery", "lighting"),
        ("costumes", "sets", "special effects", "locations"),
        _words("elegant crisp handsome colorful striking", "murky drab cheap dated ugly"),
        _words(
            "stunning breathtaking gorgeous magnificent", "hideous amateurish appalling atrocious"
        ),
        {
            "+": ("took my breath away",),
            "-": ("hurt my eyes",),
        },
    ),
    "sound": Aspect(
        ("music", "score", "soundtrack", "sound design", "theme song"),
        ("songs", "musical numbers"),
        _words(
            "memorable tender lively catchy soothing",
            "repetitive intrusive generic forgettable bland",
        ),
        _words("glorious haunting beautiful wonderful", "grating unbearable horrible awful"),
        {
            "+": ("lifted every scene",),
            "-": ("got on my nerves",),
        },
    ),
    "words": Aspect(
        ("dialogue", "humor", "banter", "narration"),
        ("jokes", "conversations", "characters"),
        _words(
            "witty sharp fresh warm believable amusing",
            "stale clumsy forced corny shallow childish",
        ),
        _words("hilarious brilliant delightful wonderful", "painful excruciating abysmal terrible"),
        {
            "+": (
                "rang true",
                "hit the mark",
            ),
            "-": (
                "fell flat",
                "missed the mark",
            ),
        },
    ),
    "pace": Aspect(
        ("pacing", "editing", "direction", "first half", "second half"),
        ("action scenes", "flashbacks", "quiet moments"),
        _words("brisk confident tight smooth effective", "sluggish choppy slack uneven unfocused"),
        _words("masterful flawless exhilarating superb", "exhausting chaotic disastrous dreadful"),
        {
            "+": (
                "never dragged",
                "built real tension",
            ),
            "-": (
                "dragged",
                "tested my patience",
            ),
        },
    ),
}

FILM_MILD = _words(
    "enjoyable charming thoughtful entertaining honest likable moving touching funny",
    "dull disappointing forgettable mediocre shallow lazy boring pointless silly",
)
FILM_STRONG = _words(
    "brilliant unforgettable wonderful extraordinary superb remarkable",
    "dreadful terrible awful insufferable atrocious horrible",
)

_STRONG_VERBS = {
    *("took my breath away", "stole the show", "fell apart", "hurt my eyes", "tested my patience"),
}

_SENTENCE_OPINIONS = {
    # whole-film phrases of the verdicts and experiences, by strength
    2.0: (
        "loved every minute",
        "could not look away",
        "laughed until I cried",
        "left the theater smiling",
        "one of the best",
        "ten out of ten",
        "nine out of ten",
        "pure joy",
        "highly recommend",
    ),
    1.0: (
        "had a good time",
        "laughed more than once",
        "was pleasantly surprised",
        "worth",
        "gladly",
        "recommend",
        "eight out of ten",
        "seven out of ten",
        "better than",
        "won me over",
        "time flew by",
    ),
    -1.0: (
        "lost interest",
        "kept checking my watch",
        "expected much more",
        "felt nothing at all",
        "four out of ten",
        "three out of ten",
        "worse than",
        "hard to sit through",
    ),
    -2.0: (
        "hated every minute",
        "walked out",
        "nearly fell asleep",
        "wanted my money back",
        "one of the worst",
        "a complete mess",
        "a waste of time",
        "two out of ten",
        "one out of ten",
    ),
}


def _opinions() -> dict[str, float]:
    table: dict[str, float] = {}

    def put(phrase: str, value: float) -> None:
        known = table.setdefault(phrase.lower(), value)
        assert known == value, f"{phrase!r} is listed as {known} and as {value}"

    for sign, polarity in (("+", 1.0), ("-", -1.0)):
        for aspect in ASPECTS.values():
            for word in aspect.mild[sign]:
                put(word, polarity)
            for word in aspect.strong[sign]:
                put(word, 2 * polarity)
            for verb in aspect.verbs[sign]:
                put(verb, (2 if verb in _STRONG_VERBS else 1) * polarity)
        for word in FILM_MILD[sign]:
            put(word, polarity)
        for word in FILM_STRONG[sign]:
            put(word, 2 * polarity)
    for value, phrases in _SENTENCE_OPINIONS.items():
        for phrase in phrases:
            put(phrase, value)
    return table


OPINIONS = _opinions()
"""Lower-case word or phrase -> strength in {-2, -1, 1, 2}."""

MODIFIERS = {
    # degree adverbs, by what they multiply the next opinion with
    **dict.fromkeys(("very", "remarkably", "extremely"), 1.3),
    **dict.fromkeys(("truly", "absolutely", "utterly", "simply"), 1.2),
    **dict.fromkeys(("really", "consistently", "far", "genuinely"), 1.2),
    **dict.fromkeys(("fairly", "rather", "somewhat", "mostly"), 0.7),
    **dict.fromkeys(("slightly", "bit", "occasionally"), 0.5),
}

NEGATORS = {
    **dict.fromkeys(
        ("not", "never", "hardly", "neither", "nor", "without", "less", "cannot"), -0.6
    ),
    "no": -0.6,
}
"""Turn the next opinion of the same clause round and weaken it: "not good" is milder than "bad"."""

FILM = "film"
"""The aspect of an opinion with no aspect noun in its clause."""

ASPECT_OF = {
    noun.split()[-1]: name
    for name, aspect in ASPECTS.items()
    for noun in (*aspect.singular, *aspect.plural)
}
"""Last word of a noun -> aspect: "half" and "scenes" are pace, "performance" is acting."""
