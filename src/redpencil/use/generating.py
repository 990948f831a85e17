"""`redpencil generate`: completions of prompts, and preferences between them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redpencil.console import say, warn
from redpencil.data.chat import use_separator
from redpencil.data.prompts import prompt_rows
from redpencil.errors import RecipeError, RunFolderError
from redpencil.folders.journal import Journal
from redpencil.folders.run import RunFolder
from redpencil.folders.targets import check_target, run_recipe
from redpencil.locks import LOCK, alone
from redpencil.models.load import learned_positions
from redpencil.places import path_of
from redpencil.recipes.asking import PAIRS, GenerateRecipe, differences, settings_of
from redpencil.rollout.judge import Question, as_text
from redpencil.rollout.rewards import Reward, check_reward, find_reward
from redpencil.types import Origin
from redpencil.use.api import load
from redpencil.use.completing import complete, ids_of_rows
from redpencil.use.labelling import (
    Asked,
    Label,
    asked_of,
    endpoint_of,
    key_of,
    label_by_judge,
    label_by_reward,
    tell_set_aside,
)

SETTINGS = "generate.json"


def generate(recipe: GenerateRecipe, prompts: Sequence[str] = ()) -> None:
    """Sample completions; print them, or write rows {prompt, responses} to `out`, with
    comparisons between them where a reward or a judge labels them. Raises UserError."""
    if bool(prompts) == bool(recipe.data):
        raise RecipeError("generate needs --prompt or --data, one of the two")
    if prompts and recipe.columns:
        raise RecipeError("--columns does nothing without --data")
    check_target(recipe.model, trust_remote_code=recipe.trust_remote_code)
    if recipe.label is not None:
        check_reward(recipe.label, trust_remote_code=recipe.trust_remote_code)
    out = path_of(recipe.out) if recipe.out else None
    if out is not None and out.exists():
        raise RecipeError(f"--out {out} exists already; nothing was written over")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    asked = [Asked(content=p, row={}, origin=Origin("prompt", 1)) for p in prompts]
    if recipe.data:
        asked = _distinct(recipe)
    if out is None:
        _print(asked, _sampled(recipe, asked))
    elif recipe.labelled:
        _label(recipe, asked, out)
    else:
        responses = _sampled(recipe, asked)
        RunFolder(out.parent).write_rows(
            out.name, [_row(a, r) for a, r in zip(asked, responses, strict=True)]
        )
        say(f"{len(asked):,} prompts with {recipe.num} responses each: {out}")


def generate_stage(recipe: GenerateRecipe) -> Path:
    """`generate` as a stage of a recipe file: `out` is a folder, whose file is returned.

    A finished stage is not redone. Raises RunFolderError where the folder holds another one.
    """
    assert recipe.out is not None, recipe
    folder = path_of(recipe.out)
    if (folder / SETTINGS).is_file() and (folder / PAIRS).is_file():
        return _stage_in(folder, recipe)  # perhaps a folder that is only read
    with alone(folder):
        return _stage_in(folder, recipe)


def _stage_in(folder: Path, recipe: GenerateRecipe) -> Path:
    settings, asked = folder / SETTINGS, settings_of(recipe)
    if settings.exists():
        if differing := differences(RunFolder(folder).read(settings.name), asked):
            raise RunFolderError(
                f"{folder} holds completions that were asked for otherwise: {differing}; name "
                "another out"
            )
    elif folder.is_dir() and any(p.name != LOCK for p in folder.iterdir()):
        raise RunFolderError(f"{folder} is not empty and not of redpencil; nothing was written")
    if (folder / PAIRS).is_file():
        say(f"{folder} is finished; nothing to do")
        return folder / PAIRS
    folder.mkdir(parents=True, exist_ok=True)
    RunFolder(folder).write_rows(settings.name, [asked])
    generate(recipe.model_copy(update={"out": str(folder / PAIRS)}))
    return folder / PAIRS


def _distinct(recipe: GenerateRecipe) -> list[Asked]:
    """The prompts of the data, each once where it is labelled: its pairs make one tree."""
    assert recipe.data is not None
    rows = tell_set_aside(prompt_rows(recipe.data, recipe.columns or None))
    if not recipe.labelled:
        return [asked_of(row) for row in rows]
    found: dict[str, Asked] = {}
    for row in rows:
        one = asked_of(row)
        found.setdefault(key_of(one), one)
    if repeated := len(rows) - len(found):
        say(f"{repeated:,} rows repeat a prompt and were left out")
    return list(found.values())


def _sampled(recipe: GenerateRecipe, asked: Sequence[Asked]) -> list[list[str]]:
    run = run_recipe(recipe.model)
    remote = recipe.trust_remote_code or (run is not None and run.trust_remote_code)
    loaded = load(recipe.model, trust_remote_code=remote)
    use_separator(loaded.tokenizer, recipe.separator, recipe.chat_template)
    ids = ids_of_rows(loaded, asked, recipe.chat_template)
    positions = learned_positions(loaded.model)
    for one, prompt in zip(asked, ids, strict=True):
        if positions is not None and len(prompt) + recipe.max_new_tokens > positions:
            raise RecipeError(
                f"{one.origin} has a prompt of {len(prompt)} tokens, which leaves no room for "
                f"--max-new-tokens {recipe.max_new_tokens} within the {positions} positions of "
                f"{recipe.model}"
            )
    return complete(
        loaded,
        ids,
        num=recipe.num,
        temperature=recipe.temperature,
        max_new_tokens=recipe.max_new_tokens,
        seed=recipe.seed,
        chat_template=recipe.chat_template,
    )


def _label(recipe: GenerateRecipe, asked: Sequence[Asked], out: Path) -> None:
    """Sample, compare, write. What is sampled and judged is kept until the file is whole."""
    reward: Reward | None = None
    if recipe.label is not None:  # found before anything is sampled: it may not be there
        reward = find_reward(recipe.label, trust_remote_code=recipe.trust_remote_code)
    else:
        Question.of(recipe.judge_template)
        endpoint_of(recipe)
    settings = {**settings_of(recipe), "prompts": _fingerprint(asked)}
    partial = out.with_name(f"{out.name}.partial")
    with Journal(partial) as journal:
        responses = _kept_responses(journal, settings)
        if responses is None:
            responses = _sampled(recipe, asked)
            journal.add({"settings": settings, "responses": responses})
        else:
            say(f"going on from {partial}")
        if reward is not None:
            labels = label_by_reward(asked, responses, reward, recipe)
        else:
            labels = label_by_judge(asked, responses, recipe, journal)
    rows = [
        _row(a, r) | {k: label[k] for k in ("comparisons", "rewards") if k in label}
        for a, r, label in zip(asked, responses, labels, strict=True)
    ]
    RunFolder(out.parent).write_rows(out.name, rows)
    partial.unlink()
    _tell(recipe, labels, out)


def _kept_responses(journal: Journal, settings: Mapping[str, Any]) -> list[list[str]] | None:
    if not journal.rows:
        return None
    first = journal.rows[0]
    if differing := differences(first.get("settings", {}), settings):
        raise RunFolderError(
            f"{journal.path} was left by another command: {differing}; repeat that one, delete the "
            "file, or name another --out"
        )
    responses: list[list[str]] = first["responses"]
    return responses


def _fingerprint(asked: Sequence[Asked]) -> str:
    keys = "".join(key_of(a) for a in asked)
    return hashlib.blake2b(keys.encode(), digest_size=16).hexdigest()


def _tell(recipe: GenerateRecipe, labels: Sequence[Label], out: Path) -> None:
    pairs = sum(len(label["comparisons"]) for label in labels)
    without = sum(not label["comparisons"] for label in labels)
    say(
        f"{len(labels):,} prompts with {recipe.num} responses each and {pairs:,} comparisons: {out}"
    )
    if without:
        say(f"{without:,} of them have none: their responses are equal, or none was better")
    if recipe.judge_url is not None:
        asked, unread, sent, got = (
            sum(label[name] for label in labels)
            for name in ("requests", "unparsable", "prompt_tokens", "completion_tokens")
        )
        say(f"the judge took {asked:,} requests, {sent:,} prompt and {got:,} completion tokens")
        if unread:
            warn(f"{unread:,} of its replies held no verdict and count as ties")


def _row(asked: Asked, responses: Sequence[str]) -> dict[str, Any]:
    prompt = asked.content if isinstance(asked.content, str) else list(asked.content)
    tools = {"tools": list(asked.tools)} if asked.tools else {}
    return {"prompt": prompt, **tools, "responses": list(responses)}


def _print(asked: Sequence[Asked], responses: Sequence[Sequence[str]]) -> None:
    for one, texts in zip(asked, responses, strict=True):
        say(as_text(one.content), style="bold")
        for text in texts:
            say(f"  → {text}")
