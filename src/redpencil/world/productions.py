"""The productions of the review grammar: which sentences a reviewer can write.

A production is a template: `<name>` is a nonterminal, everything else stands as written, in lower
case; the expander capitalizes sentences. Names end in their polarity, "+" or "-". In the families
below "±" stands for a polarity and "∓" for its opposite, so one line makes two productions.
There is no recursion: every sentence is finite, and which words can be neighbours is computable.
"""

from redpencil.world.lexicon import ASPECTS, FILM_MILD, FILM_STRONG, Aspect

OPPOSITE = {"+": "-", "-": "+"}

STICKY = {
    # chosen once for a review
    "kind": ("thriller", "comedy", "drama", "western", "romance", "horror film", "musical"),
}

PLAIN: dict[str, tuple[str, ...]] = {
    "film": ("film", "movie", "<kind>", "picture"),
    "degree": ("very", "really", "remarkably", "fairly", "rather", "consistently"),
    "summit": ("absolutely", "truly", "simply"),
    "dent": ("slightly", "a bit", "somewhat", "occasionally"),
    "when": (
        "last night",
        "last week",
        "on Friday",
        "over the weekend",
        "on a long flight",
        "on opening night",
    ),
    "with": (
        "with my sister",
        "with two friends",
        "with my parents",
        "with a full house",
        "on my own",
    ),
    "who": (
        "a retired detective",
        "a young teacher",
        "two brothers",
        "a lonely pilot",
        "a family of farmers",
        "a famous singer",
        "an old soldier",
        "three students",
        "a stubborn lawyer",
        "a pair of thieves",
    ),
    "where": (
        "in a small coastal town",
        "in the mountains",
        "in postwar London",
        "on a remote island",
        "in modern Tokyo",
        "in the desert",
        "on a crowded train",
        "in a quiet suburb",
    ),
    "event": (
        "looking for a missing child",
        "running from the past",
        "fighting for an inheritance",
        "planning one last robbery",
        "falling in love",
        "trying to start over",
        "hiding a dark secret",
        "chasing an old dream",
    ),
    "filler": (
        "the story unfolded over a single summer",
        "most of it took place at night",
        "it ran for just over two hours",
        "it is based on a novel",
        "the film opened with a funeral",
        "it began with a phone call",
    ),
    "opening": (
        "I saw this <kind> <when> <with>",
        "I watched this <kind> <when>",
        "we went to see this <kind> <when>",
        "this <kind> follows <who> <event>",
        "this is a <kind> about <who> <event>",
        "this <kind> is about <who> <event> <where>",
        "set <where>, this <kind> follows <who>",
        "set <where>, the film is about <who> <event>",
        "the film tells the story of <who> <event>",
        "my friends told me to see this <kind>, so I went <when>",
        "I knew nothing about this <kind> before I saw it <when>",
    ),
    "lead": ("frankly", "as expected", "to my surprise", "on the whole"),
}

_FAMILIES: dict[str, tuple[str, ...]] = {
    # statements about one aspect are made per aspect below; these are about the whole film
    "film.judged±": (
        "<film.mild±>",
        "<degree> <film.mild±>",
        "<film.strong±>",
        "<summit> <film.strong±>",
        "not <film.mild∓> at all",
    ),
    "experience±": ("I <felt±>", "frankly, I <felt±>"),
    "simple±": (
        "<claim±>",
        "<claim±>",
        "<claim±>",
        "<claim±>, and <claim±>",
        "<claim±>, and I <felt±>",
        "<lead>, <claim±>",
        "<experience±>",
        "<comparison±>",
    ),
    "turn±": (
        "<claim∓>, but <claim±>",
        "<claim∓>, but <claim±>",
        "although <claim∓>, <claim±>",
        "while <claim∓>, <claim±>",
        "<claim∓>; still, <claim±>",
        "<claim±>, despite the <flaw∓>",
        "despite the <flaw∓>, <claim±>",
        "<lead>, <claim∓>, but <claim±>",
    ),
    "verdict±": (
        "in the end, this was <a film±> <film>",
        "overall, it was <a film±> <film>",
        "all in all, it was <film.judged±>",
        "it was <film.judged±>, and <advice±>",
        "<advice±>",
        "<score±>",
        "I give it <score±>",
        "as a <kind>, it was <film.judged±>",
    ),
}

_POLAR: dict[str, tuple[str, ...]] = {
    "felt+": (
        "loved every minute of it",
        "could not look away",
        "laughed until I cried",
        "had a good time",
        "laughed more than once",
        "was pleasantly surprised",
    ),
    "felt-": (
        "hated every minute of it",
        "nearly fell asleep",
        "wanted my money back",
        "lost interest",
        "kept checking my watch",
        "expected much more",
        "felt nothing at all",
    ),
    "comparison+": (
        "it was better than the trailer",
        "it was better than the book",
        "it was far better than I expected",
        "the <film> won me over",
        "the time flew by",
    ),
    "comparison-": (
        "it was worse than the trailer",
        "it was worse than the original",
        "it was far worse than I expected",
        "the <film> was hard to sit through",
    ),
    "advice+": (
        "I highly recommend it",
        "I would recommend it to anyone",
        "I would gladly see it again",
        "it is worth your time",
        "it is well worth the price of a ticket",
        "it is one of the best I have seen this year",
        "it is pure joy",
        "I left the theater smiling",
    ),
    "advice-": (
        "I would not recommend it to anyone",
        "I cannot recommend it",
        "it is not worth your time",
        "it is hardly worth the price of a ticket",
        "it is one of the worst I have seen this year",
        "it is a complete mess",
        "it is a waste of time",
        "I walked out before the end",
    ),
    "score+": (
        "ten out of ten",
        "nine out of ten",
        "eight out of ten",
        "seven out of ten",
    ),
    "score-": ("four out of ten", "three out of ten", "two out of ten", "one out of ten"),
}

# {v} is "was" or "were", {n} the aspect and number: "story.s", {k} the aspect: "story"
_CLAIMS = (
    "the <{n}.noun> {v} <{k}.judged±>",
    "the <{n}.noun> {v} <{k}.judged±>",
    "the <{n}.noun> {v} <{k}.judged±>",
    "the <{n}.noun> <{k}.verb±>",
    "I found the <{n}.noun> <{k}.found±>",
)
_FOUND = (
    "<{k}.mild±>",
    "<degree> <{k}.mild±>",
    "<{k}.strong±>",
    "<summit> <{k}.strong±>",
    "more <{k}.long±> than I expected",
)
_JUDGED = (
    "<{k}.mild±>",
    "<{k}.mild±>",
    "<degree> <{k}.mild±>",
    "<degree> <{k}.mild±>",
    "<{k}.mild±> and <{k}.mild±>",
    "<{k}.strong±>",
    "<{k}.strong±>",
    "<summit> <{k}.strong±>",
    "never <{k}.mild∓>",
    "less <{k}.long∓> than I expected",
    "more <{k}.long±> than I expected",
)
_JUDGED_BAD = ("not very <{k}.mild+>", "<dent> <{k}.mild->", "neither <{k}.mild+> nor <{k}.mild+>")
_JUDGED_GOOD = ("both <{k}.mild+> and <{k}.strong+>", "<{k}.mild+> from start to finish")


def _both(family: str) -> list[tuple[str, str]]:
    return [(s, family.replace("±", s).replace("∓", OPPOSITE[s])) for s in "+-"]


def _with_article(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for word in words)


def _aspect_productions(key: str, aspect: Aspect) -> dict[str, tuple[str, ...]]:
    made: dict[str, tuple[str, ...]] = {
        f"{key}.s.noun": aspect.singular,
        f"{key}.p.noun": aspect.plural,
    }
    for sign in "+-":
        made[f"{key}.mild{sign}"] = aspect.mild[sign]
        made[f"{key}.strong{sign}"] = aspect.strong[sign]
        # "more witty" jars; "more predictable" does not
        made[f"{key}.long{sign}"] = tuple(w for w in aspect.mild[sign] if len(w) > 7) or (
            max(aspect.mild[sign], key=len),
        )
        made[f"{key}.verb{sign}"] = aspect.verbs[sign]
        extra = _JUDGED_GOOD if sign == "+" else _JUDGED_BAD
        judged = (*_JUDGED, *(line.replace("±", sign) for line in extra))
        made[f"{key}.judged{sign}"] = tuple(
            line.replace("±", sign).replace("∓", OPPOSITE[sign]).format(k=key) for line in judged
        )
        made[f"{key}.found{sign}"] = tuple(line.replace("±", sign).format(k=key) for line in _FOUND)
        made[f"{key}.claim{sign}"] = tuple(
            line.replace("±", sign).format(n=f"{key}.{number}", k=key, v=verb)
            for number, verb in (("s", "was"), ("s", "was"), ("p", "were"))
            for line in _CLAIMS
        )
        made[f"{key}.flaw{sign}"] = (f"<{key}.mild{sign}> <{key}.s.noun>",)
    return made


def _build() -> dict[str, tuple[str, ...]]:
    made = {**STICKY, **PLAIN, **_POLAR}
    for key, aspect in ASPECTS.items():
        made.update(_aspect_productions(key, aspect))
    for name, lines in _FAMILIES.items():
        for sign, full in _both(name):
            made[full] = tuple(
                line.replace("±", sign).replace("∓", OPPOSITE[sign]) for line in lines
            )
    for sign in "+-":
        made[f"film.mild{sign}"] = FILM_MILD[sign]
        made[f"film.strong{sign}"] = FILM_STRONG[sign]
        made[f"a film{sign}"] = _with_article((*FILM_MILD[sign], *FILM_STRONG[sign]))
        made[f"claim{sign}"] = tuple(f"<{key}.claim{sign}>" for key in ASPECTS)
        made[f"flaw{sign}"] = tuple(f"<{key}.flaw{sign}>" for key in ASPECTS)
    return made


PRODUCTIONS = _build()
"""Nonterminal -> its alternatives."""

SENTENCES = {
    "opening": "<opening>.",
    "filler": "<filler>.",
    **{f"simple{s}": f"<simple{s}>." for s in "+-"},
    **{f"turn{s}": f"<turn{s}>." for s in "+-"},
    **{f"verdict{s}": f"<verdict{s}>." for s in "+-"},
}
"""The start symbols: what a review is a sequence of."""
