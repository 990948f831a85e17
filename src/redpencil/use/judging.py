"""`redpencil judge`: the win rate of A over B, by a reward or by a chat model as judge."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from redpencil.console import progress_bar, say, warn
from redpencil.errors import EndpointError, RunFolderError
from redpencil.evals.winrate import (
    Rate,
    length_controlled_win_rate,
    position_bias,
    win_rate,
)
from redpencil.folders.journal import Journal
from redpencil.folders.run import RunFolder
from redpencil.intervals import Z95
from redpencil.locks import LOCK, alone
from redpencil.places import PARTIAL, path_of
from redpencil.recipes.asking import JudgeRecipe, differences, settings_of
from redpencil.report.wording import fixed
from redpencil.rollout.endpoint import ChatModel
from redpencil.rollout.judge import Judgement, Question, judge_both_orders, score_of_rewards
from redpencil.rollout.rewards import Reward, find_reward, rate
from redpencil.types import Origin
from redpencil.use.labelling import endpoint_of, kept
from redpencil.use.sides import answers
from redpencil.use.workers import in_parallel

SETTINGS, ANSWERS, TRANSCRIPT, RESULT = (
    "judge.json",
    "answers.jsonl",
    "transcript.jsonl",
    "result.json",
)
Row = dict[str, Any]


def judge(recipe: JudgeRecipe) -> dict[str, Any]:
    """Judge A's answers against B's and return the result, JSON-ready.

    The folder `out` keeps the answers, the transcript and the result; the same command goes on
    where it stopped, and repeats no verdict. Raises UserError.
    """
    _folder(recipe)  # a wrong one is refused before anything is written there
    with alone(path_of(recipe.out)):
        return _judge(recipe, _folder(recipe))


def _judge(recipe: JudgeRecipe, folder: RunFolder) -> dict[str, Any]:
    reward, question = None, Question()
    if recipe.by is not None:  # found before anything is sampled: it may not be there
        reward = find_reward(recipe.by, trust_remote_code=recipe.trust_remote_code)
    else:
        question = Question.of(recipe.judge_template)
        endpoint_of(recipe)
    rows = folder.read_rows(ANSWERS)
    if not rows:
        rows = answers(recipe)
        folder.write(SETTINGS, settings_of(recipe))
        folder.write_rows(ANSWERS, rows)
    if reward is not None:
        transcript = _rewarded(rows, reward)
        folder.write_rows(TRANSCRIPT, transcript)
    else:
        transcript = _asked(rows, recipe, question, folder.path / TRANSCRIPT)
    result = _result(recipe, transcript)
    folder.write(RESULT, result)
    return result


def _folder(recipe: JudgeRecipe) -> RunFolder:
    """The folder, new or of the same judgement. Raises RunFolderError."""
    path = path_of(recipe.out)
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"--out {path} is a file; name a folder")
    folder = RunFolder(path)
    if (path / SETTINGS).is_file():
        if differing := differences(folder.read(SETTINGS), settings_of(recipe)):
            raise RunFolderError(
                f"{path} holds another judgement: {differing}; name another --out, or repeat the "
                "first command to go on with it"
            )
    elif path.is_dir() and any(_counts(p) for p in path.iterdir()):
        raise RunFolderError(
            f"--out {path} is not empty and not a judgement of redpencil; nothing was written; "
            "name a new folder"
        )
    return folder


def _counts(path: Path) -> bool:
    """Whether a file says that a folder is somebody's."""
    return path.name != LOCK and not path.name.endswith(PARTIAL)


def _rewarded(rows: Sequence[Row], reward: Reward) -> list[Row]:
    """The transcript of a reward as judge."""
    with progress_bar() as bar:
        task = bar.add_task("rewards", total=len(rows))
        values = rate(
            reward,
            [r["prompt"] for r in rows],
            [[r["a"], r["b"]] for r in rows],
            [r["columns"] for r in rows],
            [Origin(r["file"], r["row"]) for r in rows],
            progress=lambda done: bar.advance(task, done),
        )
    scores = score_of_rewards([v[0] for v in values], [v[1] for v in values])
    return [
        {
            **_seen(i, row),
            "verdict": _VERDICTS[score],
            "score": score,
            "reward_a": value[0],
            "reward_b": value[1],
        }
        for i, (row, score, value) in enumerate(zip(rows, scores, values, strict=True))
    ]


_VERDICTS = {1.0: "a", 0.5: "tie", 0.0: "b"}


def _seen(index: int, row: Row) -> Row:
    return {"index": index, **{k: row[k] for k in ("file", "row", "prompt", "a", "b")}}


def _asked(rows: Sequence[Row], recipe: JudgeRecipe, question: Question, path: Path) -> list[Row]:
    """The transcript of a chat model as judge, gone on with where it stopped."""
    with (
        Journal(path) as journal,
        ChatModel(endpoint_of(recipe)) as model,
        progress_bar() as bar,
    ):
        known = {row["index"]: row for row in journal.rows}
        task = bar.add_task("judging", total=len(rows), completed=len(known))

        def ask(i: int) -> Judgement:
            row = rows[i]
            return judge_both_orders(model, question, row["prompt"], row["a"], row["b"])

        def keep(i: int, judgement: Judgement) -> None:
            known[i] = {**_seen(i, rows[i]), **_told(judgement)}
            journal.add(known[i])
            bar.advance(task)

        todo = [i for i in range(len(rows)) if i not in known]
        try:
            in_parallel(todo, ask, keep, threads=recipe.parallel, stop=model.stop)
        except EndpointError as error:
            raise kept(error, len(known), len(rows), str(path)) from error
    return [known[i] for i in range(len(rows))]


def _told(judgement: Judgement) -> Row:
    usage = judgement.usage
    return {
        "verdict": _VERDICTS[judgement.score],
        "score": judgement.score,
        "votes": list(judgement.votes),
        "replies": list(judgement.replies),
        "requests": usage.requests,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "unreported": usage.unreported,
    }


def _result(recipe: JudgeRecipe, rows: Sequence[Row]) -> dict[str, Any]:
    scores = np.array([row["score"] for row in rows])
    lengths = {side: np.array([len(row[side]) for row in rows]) for side in "ab"}
    result: dict[str, Any] = {
        "a": recipe.a,
        "b": recipe.b,
        "judge": recipe.by or recipe.judge_model,
        "prompts": len(rows),
        "wins": int((scores == 1).sum()),
        "ties": int((scores == 0.5).sum()),
        "losses": int((scores == 0).sum()),
        "identical_answers": sum(row["a"] == row["b"] for row in rows),
        **_named("win_rate", win_rate(scores, seed=recipe.seed)),
        **_named(
            "length_controlled_win_rate",
            length_controlled_win_rate(scores, lengths["a"], lengths["b"], seed=recipe.seed),
        ),
        "characters": {side: float(lengths[side].mean()) for side in "ab"},
    }
    if recipe.by is not None:
        return result | {"rewards": _rewards(rows)}
    return result | {"position": _position(rows), "cost": _cost(recipe, rows)}


def _named(name: str, found: Rate) -> dict[str, Any]:
    return {name: found.value, f"{name}_interval": [found.low, found.high]}


def _rewards(rows: Sequence[Row]) -> dict[str, float | None]:
    a, b = (np.array([row[f"reward_{side}"] for row in rows]) for side in "ab")
    error = float((a - b).std(ddof=1) / math.sqrt(len(rows))) if len(rows) > 1 else None
    return {
        "a": float(a.mean()),
        "b": float(b.mean()),
        "difference": float((a - b).mean()),
        "difference_stderr": error,
    }


def _position(rows: Sequence[Row]) -> dict[str, Any]:
    asked = [row for row in rows if row["a"] != row["b"]]
    bias = position_bias([(row["votes"][0], row["votes"][1]) for row in asked])
    return {
        "first": None if math.isnan(bias.first) else bias.first,
        "consistent": None if math.isnan(bias.consistent) else bias.consistent,
        "replies": 2 * len(asked),
        "unparsable": sum(row["votes"].count(None) for row in asked),
    }


def _cost(recipe: JudgeRecipe, rows: Sequence[Row]) -> dict[str, float]:
    names = ("requests", "prompt_tokens", "completion_tokens", "unreported")
    cost: dict[str, float] = {name: sum(row[name] for row in rows) for name in names}
    if recipe.price is not None:
        sent, got = recipe.price
        cost["price"] = (sent * cost["prompt_tokens"] + got * cost["completion_tokens"]) / 1e6
    return cost


def print_judgement(result: dict[str, Any], out: str) -> None:
    """The result for a person."""
    say(
        f"{result['a']} (A) against {result['b']} (B) on {result['prompts']:,} prompts, "
        f"judged by {result['judge']}"
    )
    low, high = result["win_rate_interval"]
    say(
        f"  win rate of A     {result['win_rate']:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}; a coin toss is 50 %)"
    )
    low, high = result["length_controlled_win_rate_interval"]
    say(
        f"  at equal lengths  {result['length_controlled_win_rate']:.1%} "
        f"({low:.1%} to {high:.1%}); answers have {result['characters']['a']:.0f} and "
        f"{result['characters']['b']:.0f} characters on average"
    )
    same = result["identical_answers"]
    equal = f", {same:,} of them equal answers" if same else ""
    say(
        f"  A wins, ties      {result['wins']:,} wins, {result['losses']:,} losses, "
        f"{result['ties']:,} ties{equal}"
    )
    if "rewards" in result:
        _print_rewards(result["rewards"])
    else:
        _print_asking(result)
    say(f"  kept in           {out}")


def _print_rewards(rewards: dict[str, float | None]) -> None:
    names = ("a", "b", "difference")
    a, b, difference = (fixed(rewards[name] or 0.0, 3, sign=True) for name in names)
    error = rewards["difference_stderr"]
    by = "" if error is None else f" ± {fixed(Z95 * error, 3)}"
    say(f"  mean reward       A {a}, B {b}, difference {difference}{by} (95 % interval)")


def _print_asking(result: dict[str, Any]) -> None:
    position, cost = result["position"], result["cost"]
    if position["first"] is not None:
        say(
            f"  position          {position['first']:.1%} of the votes are for the answer shown "
            f"first; both orders agree on {position['consistent']:.1%} of the prompts"
        )
    price = f", which cost {cost['price']:.4f}" if "price" in cost else ""
    say(
        f"  cost              {cost['requests']:,} requests, {cost['prompt_tokens']:,} prompt and "
        f"{cost['completion_tokens']:,} completion tokens{price}"
    )
    if cost["unreported"]:
        warn(f"{cost['unreported']:,} replies came without a count of their tokens")
    if unread := position["unparsable"]:
        warn(
            f"{unread:,} of {position['replies']:,} replies held no verdict ([[A]], [[B]] or "
            "[[C]]); their prompts count as ties"
        )
