"""`redpencil generate` and `redpencil chat`: completions for prompts, and a conversation."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from redpencil.api import Loaded, load
from redpencil.console import progress_bar, say
from redpencil.data.sources import read_rows
from redpencil.data.tokenize import prompt_ids, readable
from redpencil.errors import DataError, RecipeError, did_you_mean
from redpencil.fitting import end_token_ids
from redpencil.rollout.sample import sample
from redpencil.targets import reference_of, run_recipe
from redpencil.types import Content, Message


def generate(
    target: str,
    *,
    prompts: Sequence[str],
    data: str | None,
    out: Path | None,
    num: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> None:
    """Sample completions; print them, or write rows {prompt, responses}. Raises UserError."""
    if bool(prompts) == bool(data):
        raise RecipeError("generate needs --prompt or --data, one of the two")
    for name, value, least in (("num", num, 1), ("max-new-tokens", max_new_tokens, 1)):
        if value < least:
            raise RecipeError(f"--{name} must be at least {least}, it is {value}")
    if temperature < 0:
        raise RecipeError(f"--temperature must not be negative, it is {temperature}")
    if out is not None and out.exists():
        raise RecipeError(f"--out {out} exists already; nothing was written over")
    contents = list(prompts) if data is None else prompts_of(data)
    recipe = run_recipe(target)
    loaded = load(target, trust_remote_code=recipe is not None and recipe.trust_remote_code)
    template = recipe.chat_template if recipe else "auto"
    ids = [_ids(loaded, content, template) for content in contents]
    responses = _complete(loaded, ids, num, temperature, max_new_tokens, seed)
    rows = [{"prompt": p, "responses": r} for p, r in zip(contents, responses, strict=True)]
    if out is not None:
        scratch = out.with_name(f".{out.name}.partial")
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        scratch.write_text("".join(lines), encoding="utf-8")
        os.replace(scratch, out)
        say(f"{len(rows):,} prompts with {num} responses each: {out}")
        return
    for row in rows:
        say(_as_text(row["prompt"]), style="bold")
        for response in row["responses"]:
            say(f"  → {response}")


def prompts_of(data: str) -> list[Any]:
    """The prompt of every row of a data file: a string or a list of messages."""
    found = []
    for origin, row in read_rows(data):
        prompt = row.get("prompt")
        if prompt is None:
            raise DataError(f'{origin}: no column "prompt"{did_you_mean("prompt", row)}')
        if not isinstance(prompt, (str, list)):
            raise DataError(f'{origin}: column "prompt" must be text or a list of messages')
        found.append(prompt)
    return found


def _as_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{m.get('role')}: {m.get('content')}" for m in prompt)


def _complete(
    loaded: Loaded,
    ids: Sequence[np.ndarray],
    num: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> list[list[str]]:
    with progress_bar() as bar:
        row = bar.add_task("sampling", total=len(ids))
        drawn = sample(
            loaded.model,
            ids,
            num=num,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            progress=lambda done: bar.advance(row, done),
            **_ends(loaded),
        )
    return [
        [readable(c, loaded.tokenizer, after=p) for c in each]
        for p, each in zip(ids, drawn, strict=True)
    ]


def _ids(loaded: Loaded, content: Any, chat_template: str) -> np.ndarray:
    prompt: Content = content if isinstance(content, str) else tuple(content)
    ids = prompt_ids(prompt, loaded.tokenizer, chat_template=chat_template)
    if not len(ids):
        raise DataError("an empty prompt cannot be continued: this tokenizer has no start token")
    return ids


def _ends(loaded: Loaded) -> dict[str, Any]:
    ends = end_token_ids(loaded.model, loaded.tokenizer, [])
    return {"eos_ids": ends, "pad_id": ends[0]}


def chat(target: str, *, temperature: float, max_new_tokens: int) -> None:
    """Talk to a model, or to a run's policy and its reference side by side, until end of input."""
    recipe = run_recipe(target)
    remote = recipe is not None and recipe.trust_remote_code
    template = recipe.chat_template if recipe else "auto"
    speakers = {"policy" if recipe else target: load(target, trust_remote_code=remote)}
    if recipe:
        before = reference_of(target, recipe)
        speakers["reference"] = load(before, trust_remote_code=remote)
    say("An empty line or Ctrl-D ends the conversation; /new begins another.")
    console = Console()
    turns: dict[str, list[Message]] = {name: [] for name in speakers}
    for number in range(1_000_000):
        try:
            said = input("you: ").strip()
        except EOFError:
            return
        if not said:
            return
        if said == "/new":
            turns = {name: [] for name in speakers}
            continue
        if said.startswith("/"):
            say(f"{said.split()[0]} is no command here; there is /new")
            continue
        panels = []
        for name, loaded in speakers.items():
            turns[name].append({"role": "user", "content": said})
            ids = _ids(loaded, turns[name], template)
            reply = _reply(loaded, ids, temperature, max_new_tokens, seed=number)
            turns[name].append({"role": "assistant", "content": reply})
            panels.append(Panel(Text(reply or "(nothing)"), title=Text(name)))
        console.print(Columns(panels, equal=True, expand=True))


def _reply(
    loaded: Loaded, ids: np.ndarray, temperature: float, max_new_tokens: int, *, seed: int
) -> str:
    ids = ids[-max(1, loaded.context_length - max_new_tokens) :]
    drawn = sample(
        loaded.model,
        [ids],
        num=1,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        **_ends(loaded),
    )
    return readable(drawn[0][0], loaded.tokenizer, after=ids).strip()
