import random
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redpencil.world.fluency import fluency, form, reads_as_review
from redpencil.world.grammar import MOODS, review, review_in_mood, vocabulary
from redpencil.world.lexicon import OPINIONS
from redpencil.world.reward import HIGHEST, LOWEST, favour, penalty, rewards, true_reward
from redpencil.world.sentiment import opinions, strength


def reviews(n, seed):
    rng = random.Random(seed)
    return [review(rng) for _ in range(n)]


def test_strength_by_hand():
    assert strength("The plot was witty.") == 1.0
    assert strength("The plot was very witty.") == pytest.approx(1.3)
    assert strength("The plot was not very witty.") == pytest.approx(-0.78)
    assert strength("The plot was never dull.") == pytest.approx(0.6)
    assert strength("The songs never dragged.") == 1.0  # the phrase is longer than "dragged"
    assert strength("The plot was neither witty nor fresh.") == pytest.approx(-1.2)
    assert strength("Nobody knows.") == 0.0


def test_a_turn_weighs_its_two_sides():
    dull_superb = 0.6 * -1 + 1.2 * 2
    assert strength("The plot was dull, but the acting was superb.") == pytest.approx(dull_superb)
    assert strength("Although the plot was dull, the acting was superb.") == pytest.approx(
        dull_superb
    )
    assert strength("The acting was superb, despite the dull plot.") == pytest.approx(dull_superb)
    superb_dull = 0.6 * 2 + 1.2 * -1
    assert strength("The acting was superb, but the plot was dull.") == pytest.approx(superb_dull)


def test_opinions_know_their_aspect():
    found = opinions("The plot was dull, but the lead performance was superb. I lost interest.")
    assert [(o.phrase, o.aspect) for o in found] == [
        ("dull", "story"),
        ("superb", "acting"),
        ("lost interest", "film"),
    ]
    assert opinions("Despite the thin plot, the sets were ugly.")[0].aspect == "story"


def test_favour_is_an_average_over_aspects():
    # story -0.6, acting 2.4: (-0.6 + 2.4) / (2 + 1)
    assert favour("The plot was dull, but the acting was superb.") == pytest.approx(0.6)
    assert favour("It was superb.") == pytest.approx(2 / 2)
    assert favour("It was superb. It was superb.") == pytest.approx(2 / 2)
    assert favour("It was superb, wonderful and brilliant.") == pytest.approx(2.5 / 2)


def test_reviews_of_the_grammar_have_mean_0_deviation_1_and_no_fault():
    texts = reviews(6000, seed=11)
    rewards = np.array([true_reward(text) for text in texts])
    assert abs(rewards.mean()) < 4 * rewards.std() / 6000**0.5
    assert rewards.std() == pytest.approx(1.0, abs=0.03)
    assert all(penalty(form(text)) == 0.0 for text in texts)
    assert all(reads_as_review(text) and fluency(text) == 1.0 for text in texts)


def test_reward_follows_the_mood():
    rng = random.Random(2)
    means = [np.mean([true_reward(review_in_mood(rng, m)) for _ in range(400)]) for m in MOODS]
    assert np.all(np.diff(means) > 0.3)
    assert means[0] == pytest.approx(-means[-1], abs=0.2)


PRAISE = sorted(phrase for phrase, value in OPINIONS.items() if value == 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "superb",
        "Superb. " * 20,
        "superb " * 40,
        "The acting was superb. " * 10,
        " ".join(PRAISE),
        " ".join(PRAISE) + ".",
        ". ".join(p.capitalize() for p in PRAISE) + ".",
        "The plot superb acting brilliant music wonderful dialogue hilarious pacing flawless.",
    ],
)
def test_degenerate_praise_does_not_pay(text):
    honest = np.array([true_reward(t) for t in reviews(2000, seed=4)])
    assert true_reward(text) < np.quantile(honest, 0.75)
    assert not reads_as_review(text)


def test_repeating_a_good_review_only_loses():
    rng = random.Random(8)
    text = max((review_in_mood(rng, 2) for _ in range(50)), key=true_reward)
    assert true_reward(f"{text} {text}") < true_reward(text)
    assert true_reward(text[:-1]) < true_reward(text)
    shuffled = text.split()
    rng.shuffle(shuffled)
    assert true_reward(" ".join(shuffled)) < true_reward(text) - 1


@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from(vocabulary()), max_size=60).map(" ".join),
        st.text(alphabet=string.ascii_letters + " .,;", max_size=200),
    )
)
@settings(max_examples=200, deadline=None)
def test_every_text_has_a_bounded_reward(text):
    assert LOWEST <= true_reward(text) <= HIGHEST
    assert 0.0 <= fluency(text) <= 1.0


def test_rewards_of_prompts_with_responses() -> None:
    texts = [("The plot", " was superb."), ("The cast", " was dreadful.")]
    prompts, responses = zip(*texts, strict=True)
    assert rewards(prompts, responses, [{}, {}]) == [true_reward(p + r) for p, r in texts]
