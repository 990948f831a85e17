"""The ground truth of the review world: a reward for every text, fluent or not.

How favourable a review is, as an average and not as a sum: each aspect of the film (story, acting,
..., the film as a whole) has a verdict, bounded by `ASPECT_CAP`, in which a word counts once; the
verdicts are averaged, shrunk towards 0 for reviews that judge little. From that the faults of form
are taken: unknown word pairs, repeated sentences, no end. The result is scaled to mean 0 and
standard deviation 1 over the grammar.

So repetition does not pay (a word counts once), nor do heaps of superlatives (each aspect is
bounded; a heap is not grammatical): the best texts are fluent reviews that praise everything.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from redpencil.world.fluency import Form, form
from redpencil.world.sentiment import opinions

ASPECT_CAP = 2.5
PRIOR_ASPECTS = 1.0
"""Added to the number of judged aspects in the average: who judges little says little."""

UNKNOWN_PAIRS_COST = 5.0
"""For a text of which no two neighbouring words are known; in proportion below that."""
REPEAT_COST = 1.0
UNFINISHED_COST = 0.5
SHORT_COST = 0.5
"""For each sentence that is missing from two or is more than six."""

MEAN, DEVIATION = 0.033, 0.913
"""Of the unscaled reward over the grammar; a test measures them."""

LOWEST, HIGHEST = -12.0, 3.0
"""Every text's reward lies between these."""


def true_reward(text: str) -> float:
    """Reward of any text: about 0 with deviation 1 over reviews, in [LOWEST, HIGHEST]."""
    scaled = (favour(text) - penalty(form(text)) - MEAN) / DEVIATION
    return min(max(scaled, LOWEST), HIGHEST)


def rewards(
    prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> list[float]:
    """`true_reward` of each prompt with its response: what `--reward module:function` can name."""
    return [true_reward(p + r) for p, r in zip(prompts, responses, strict=True)]


def favour(text: str) -> float:
    """Average verdict over the aspects that `text` judges, in about [-2.2, 2.2]; 0 for none."""
    verdicts: dict[str, float] = {}
    said: set[str] = set()
    for opinion in opinions(text):
        if opinion.phrase in said:
            continue
        said.add(opinion.phrase)
        verdict = verdicts.get(opinion.aspect, 0.0) + opinion.value * opinion.weight
        verdicts[opinion.aspect] = verdict
    bounded = (min(max(v, -ASPECT_CAP), ASPECT_CAP) for v in verdicts.values())
    return sum(bounded) / (len(verdicts) + PRIOR_ASPECTS)


def penalty(facts: Form) -> float:
    """What faults of form cost, 0 for every review of the grammar."""
    off_length = max(2 - facts.sentences, 0) + max(facts.sentences - 6, 0)
    return (
        UNKNOWN_PAIRS_COST * (1.0 - facts.fluency)
        + REPEAT_COST * facts.repeats
        + UNFINISHED_COST * (not facts.finished)
        + SHORT_COST * off_length
    )
