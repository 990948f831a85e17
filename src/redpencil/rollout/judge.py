"""A chat model as a judge of two answers: what it is asked, and what its reply means."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
from jinja2 import meta
from jinja2.sandbox import SandboxedEnvironment

from redpencil.errors import RecipeError, did_you_mean
from redpencil.places import path_of, text_of
from redpencil.rollout.endpoint import ChatModel, Usage
from redpencil.rollout.rewards import Prompt
from redpencil.types import Vote

QUESTION = """\
Two assistants answered the same request. Judge whose answer serves the person better: is it \
correct, does it do what was asked, is it clear? Do not let the order in which the answers stand, \
or their length, sway you.

[Request]
{{ prompt }}
[End of the request]

[Answer A]
{{ answer_a }}
[End of answer A]

[Answer B]
{{ answer_b }}
[End of answer B]

Give your reasons in a sentence or two. Then end with your verdict, exactly one of these: [[A]] if \
answer A is better, [[B]] if answer B is better, [[C]] if neither is.
"""
"""The judge's question, a Jinja template. The verdict's form is that of MT-Bench (Zheng et al.
2023), which many judge models know."""

_SLOTS = frozenset({"prompt", "answer_a", "answer_b"})
_BRACKETED = re.compile(r"\[\[\s*(A|B|C|tie)\s*\]\]", re.IGNORECASE)
_VOTES: dict[str, Vote] = {"a": "first", "b": "second", "c": "tie", "tie": "tie"}


class Question:
    """The template of the judge's question."""

    def __init__(self, source: str = QUESTION, *, name: str = "the judge's question") -> None:
        """Raises RecipeError for a template that is none or leaves out what is to be judged."""
        environment = SandboxedEnvironment(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True
        )
        try:
            used = meta.find_undeclared_variables(environment.parse(source))
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise RecipeError(f"{name} is no Jinja template: {error}") from None
        for slot in sorted(used - _SLOTS):
            raise RecipeError(f"{name} uses {{{{ {slot} }}}}{did_you_mean(slot, _SLOTS)}")
        for slot in sorted(_SLOTS - used):
            raise RecipeError(f"{name} does not use {{{{ {slot} }}}}, so it cannot ask about it")
        self.source = source

    @classmethod
    def of(cls, file: str | None) -> "Question":
        """Of a file, or the one above. Raises RecipeError."""
        if file is None:
            return cls()
        try:
            return cls(text_of(path_of(file)), name=file)
        except FileNotFoundError:
            raise RecipeError(f"--judge-template {file}: no such file") from None

    def __call__(self, prompt: str, answer_a: str, answer_b: str) -> str:
        return self._template.render(prompt=prompt, answer_a=answer_a, answer_b=answer_b)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of answers a and b, asked with a shown first and with b shown first.

    score: a's, 1, 1/2 or 0. A vote is None where the reply held no verdict.
    """

    score: float
    votes: tuple[Vote | None, Vote | None]
    replies: tuple[str, str]
    usage: Usage


IDENTICAL = Judgement(0.5, ("tie", "tie"), ("", ""), Usage())
"""Of equal answers, about which nobody is asked."""


def judge_both_orders(
    model: ChatModel, question: Question, prompt: Prompt, a: str, b: str
) -> Judgement:
    """Ask which of two answers is better, in both orders. Raises EndpointError."""
    if a == b:
        return IDENTICAL
    request = as_text(prompt)
    a_first = model.ask(question(request, a, b))
    b_first = model.ask(question(request, b, a))
    votes = vote_of(a_first.text), vote_of(b_first.text)
    return Judgement(
        score=score_of_votes(*votes),
        votes=votes,
        replies=(a_first.text, b_first.text),
        usage=a_first.usage + b_first.usage,
    )


def vote_of(reply: str) -> Vote | None:
    """The last [[A]], [[B]] or [[C]] of a reply; or a reply that is nothing but the letter."""
    marked = _BRACKETED.findall(reply)
    said = marked[-1] if marked else reply.strip().strip(".*\"'`[]()")
    return _VOTES.get(said.lower())


def score_of_votes(a_first: Vote | None, b_first: Vote | None) -> float:
    """a's score from the votes with a shown first and with b shown first.

    1 or 0 where both orders name the same answer; 1/2 where both say tie, where they disagree, and
    where one of the replies holds no verdict.
    """
    if (a_first, b_first) == ("first", "second"):
        return 1.0
    if (a_first, b_first) == ("second", "first"):
        return 0.0
    return 0.5


def as_text(prompt: Prompt) -> str:
    """A prompt as a judge reads it: chat turns with their speakers."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{m.get('role')}: {m.get('content')}" for m in prompt)


def score_of_rewards(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """a's scores where a reward judges: the higher wins, equal rewards are a tie."""
    return [0.5 if x == y else float(x > y) for x, y in zip(a, b, strict=True)]
