"""A chat model as a judge: its question, its verdict, both orders."""

import pytest

from judge_server import judge_server
from redpencil.errors import RecipeError
from redpencil.rollout.endpoint import ChatModel, Endpoint
from redpencil.rollout.judge import Question, judge_both_orders, score_of_votes, vote_of


@pytest.mark.parametrize(
    ("reply", "vote"),
    [
        ("A is clearer. [[A]]", "first"),
        ("[[A]] at first sight, but no: [[b]]", "second"),
        ("[[ C ]]", "tie"),
        ("[[tie]]", "tie"),
        (" B. ", "second"),
        ("Answer A is better", None),
        ("", None),
        ("[[D]]", None),
    ],
)
def test_what_a_reply_means(reply, vote):
    assert vote_of(reply) == vote


@pytest.mark.parametrize(
    ("votes", "score"),
    [
        (("first", "second"), 1.0),
        (("second", "first"), 0.0),
        (("first", "first"), 0.5),
        (("tie", "tie"), 0.5),
        (("first", "tie"), 0.5),
        (("first", None), 0.5),
        ((None, None), 0.5),
    ],
)
def test_disagreement_is_a_tie(votes, score):
    assert score_of_votes(*votes) == score


def _endpoint(server):
    return Endpoint(url=server.url, model="m", key=None)


def judged(answer, a, b, prompt="Why?"):
    with judge_server(answer) as server, ChatModel(_endpoint(server)) as model:
        judgement = judge_both_orders(model, Question(), prompt, a, b)
    return judgement, [r["messages"][0]["content"] for r in server.requests]


def longer(question):
    first, second = (question.split(f"[Answer {x}]\n")[1].split("\n[End")[0] for x in "AB")
    return "[[A]]" if len(first) > len(second) else "[[B]]"


def test_both_orders_are_asked():
    judgement, questions = judged(longer, "a rather long answer", "short {{ prompt }}")
    assert judgement.score == 1.0
    assert judgement.votes == ("first", "second")
    assert judgement.usage.requests == 2
    assert judgement.usage.prompt_tokens == 200
    assert questions[0].index("a rather long answer") < questions[0].index("short {{ prompt }}")
    assert questions[1].index("a rather long answer") > questions[1].index("short {{ prompt }}")
    assert judged(longer, "short", "a rather long answer")[0].score == 0.0


def test_a_judge_who_always_takes_the_first_gives_a_tie():
    judgement, _ = judged(lambda question: "[[A]]", "x", "y")
    assert (judgement.score, judgement.votes) == (0.5, ("first", "first"))


def test_equal_answers_cost_nothing():
    judgement, questions = judged(longer, "same", "same")
    assert judgement.score == 0.5
    assert not questions


def test_a_conversation_is_shown_with_its_speakers():
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    _, questions = judged(longer, "x", "yy", prompt)
    assert "system: Be kind.\n\nuser: Hello" in questions[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ prompt }} {{ answer_a }}", ["does not use {{ answer_b }}"]),
        ("{{ promt }} {{ answer_a }} {{ answer_b }}", ["{{ promt }}", 'did you mean "prompt"?']),
        ("{{ prompt", ["no Jinja template"]),
    ],
)
def test_a_wrong_template(tmp_path, text, words):
    file = tmp_path / "question.txt"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        Question.of(str(file))
    for word in ["question.txt", *words]:
        assert word in str(caught.value)


def test_an_own_template_and_one_that_is_not_there(tmp_path):
    file = tmp_path / "question.txt"
    file.write_text("{{ prompt }}|{{ answer_a }}|{{ answer_b }}")
    assert Question.of(str(file))("p", "<a>", "b") == "p|<a>|b"
    with pytest.raises(RecipeError, match=r"absent\.txt: no such file"):
        Question.of(str(tmp_path / "absent.txt"))
