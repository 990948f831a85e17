"""Who wins among the completions of a prompt: by a reward, or by a chat model as judge."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from redpencil.console import progress_bar, say
from redpencil.data.prompts import PromptRow, PromptRows, Tools, text_of
from redpencil.data.split import prompt_key
from redpencil.errors import EndpointError
from redpencil.folders.journal import Journal
from redpencil.recipes.asking import GenerateRecipe, JudgeOptions
from redpencil.rollout.endpoint import ChatModel, Endpoint, Usage
from redpencil.rollout.judge import Question, judge_both_orders
from redpencil.rollout.rewards import Prompt, Reward, rate
from redpencil.types import Content, Origin
from redpencil.use.workers import in_parallel
from redpencil.world.pairs import label_pairs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A prompt to be completed or judged. tools: for the chat template; row: the data row it came
    from; answers: those that stand there, as training reads them, by column."""

    content: Prompt
    row: Mapping[str, Any]
    origin: Origin
    tools: Tools | None = None
    answers: Mapping[str, Content] = field(default_factory=dict)


def asked_of(one: PromptRow) -> Asked:
    """A row's prompt. Raises DataError for token ids: rewards and judges read text."""
    content = text_of(one.content, one.origin)
    return Asked(
        content=content, row=one.row, origin=one.origin, tools=one.tools, answers=one.answers
    )


def tell_set_aside(read: PromptRows) -> list[PromptRow]:
    """The rows that ask something, once it is said what was seen in them and which do not."""
    for note in read.notes:
        say(note)
    for reason, count in Counter(d.reason for d in read.dropped).items():
        first = next(d for d in read.dropped if d.reason == reason)
        detail = f": {first.detail}" if first.detail else ""
        say(f"{count:,} rows set aside ({reason}; first: {first.origin}{detail})")
    return read.rows


def key_of(asked: Asked) -> str:
    """The prompt's name: rows with equal ones have the same prompt."""
    content = asked.content
    return prompt_key(content if isinstance(content, str) else tuple(content), asked.tools)


Label = dict[str, Any]
"""`comparisons`, [[winner, loser], ...], and what they were made from."""


def label_by_reward(
    asked: Sequence[Asked],
    responses: Sequence[Sequence[str]],
    reward: Reward,
    recipe: GenerateRecipe,
) -> list[Label]:
    """Compare all pairs of a prompt's completions by their rewards; equal ones are not compared.

    Raises RewardError.
    """
    with progress_bar() as bar:
        task = bar.add_task("rewards", total=len(asked))
        rewards = rate(
            reward,
            [a.content for a in asked],
            responses,
            [a.row for a in asked],
            [a.origin for a in asked],
            progress=lambda done: bar.advance(task, done),
        )
    # Temperature 0 is the sign: the higher reward always wins, and equal ones are not compared.
    temperature = 0.0 if recipe.label_by == "sign" else recipe.label_temperature or 1.0
    rng = random.Random(f"labels {recipe.seed}")
    return [
        {
            "comparisons": label_pairs("", texts, values, rng, temperature)["comparisons"],
            "rewards": values,
        }
        for texts, values in zip(responses, rewards, strict=True)
    ]


def label_by_judge(
    asked: Sequence[Asked],
    responses: Sequence[Sequence[str]],
    recipe: GenerateRecipe,
    journal: Journal,
) -> list[Label]:
    """Compare all pairs of a prompt's completions by a chat model, in both orders; ties are not
    compared. The journal keeps what is judged. Raises EndpointError."""
    question = Question.of(recipe.judge_template)
    known = {row["index"]: row for row in journal.rows if "index" in row}
    todo = [i for i in range(len(asked)) if i not in known]
    with ChatModel(endpoint_of(recipe)) as model, progress_bar() as bar:
        task = bar.add_task("judging", total=len(asked), completed=len(known))

        def ask(i: int) -> Label:
            return _judged(model, question, asked[i], responses[i])

        def keep(i: int, label: Label) -> None:
            known[i] = {"index": i, **label}
            journal.add(known[i])
            bar.advance(task)

        try:
            in_parallel(todo, ask, keep, threads=recipe.parallel, stop=model.stop)
        except EndpointError as error:
            raise kept(error, len(known), len(asked), str(journal.path)) from error
    return [{k: v for k, v in known[i].items() if k != "index"} for i in range(len(asked))]


def _judged(model: ChatModel, question: Question, asked: Asked, texts: Sequence[str]) -> Label:
    comparisons: list[list[int]] = []
    usage, unparsable = Usage(), 0
    for i, j in combinations(range(len(texts)), 2):
        if texts[i] == texts[j]:
            continue
        verdict = judge_both_orders(model, question, asked.content, texts[i], texts[j])
        usage += verdict.usage
        unparsable += verdict.votes.count(None)
        if verdict.score != 0.5:
            comparisons.append([i, j] if verdict.score == 1 else [j, i])
    return {
        "comparisons": comparisons,
        "unparsable": unparsable,
        "requests": usage.requests,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def endpoint_of(options: JudgeOptions) -> Endpoint:
    """Where the judge is. Raises RecipeError for a wrong URL."""
    assert options.judge_url is not None and options.judge_model is not None
    return Endpoint(
        url=options.judge_url,
        model=options.judge_model,
        max_tokens=options.judge_tokens,
        timeout=options.judge_timeout,
    )


def kept(error: EndpointError, done: int, total: int, where: str) -> EndpointError:
    """The same error, with what is not lost."""
    return EndpointError(
        f"{error}; {done:,} of {total:,} prompts are judged and kept in {where}, and the same "
        "command goes on from there"
    )
