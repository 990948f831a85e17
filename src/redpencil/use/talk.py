"""`redpencil chat`: a conversation with a model, or with policy and reference side by side."""

from dataclasses import replace

import numpy as np
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from redpencil.console import say
from redpencil.data.tokenize import readable
from redpencil.errors import RecipeError
from redpencil.folders.targets import reference_of, run_recipe
from redpencil.rollout.sample import sample
from redpencil.types import Message
from redpencil.use.api import Loaded, load
from redpencil.use.completing import ends, ids_of


def chat(target: str, *, temperature: float, max_new_tokens: int) -> None:
    """Talk to a model, or to a run's policy and its reference side by side, until end of input."""
    recipe = run_recipe(target)
    remote = recipe is not None and recipe.trust_remote_code
    policy = load(target, trust_remote_code=remote)
    speakers = {"policy" if recipe else target: policy}
    if recipe:
        before = load(reference_of(target, recipe), trust_remote_code=remote)
        # Its own tokenizer may lack the chat template that the run read by.
        speakers["reference"] = replace(before, tokenizer=policy.tokenizer)
    for name, loaded in speakers.items():
        if max_new_tokens >= loaded.context_length:
            raise RecipeError(
                f"--max-new-tokens {max_new_tokens} leaves no room for what you say within the "
                f"{loaded.context_length} tokens of {target if len(speakers) == 1 else name}"
            )
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
            ids = ids_of(loaded, turns[name], "auto")
            if len(ids) > loaded.context_length - max_new_tokens:
                say(f"{name} no longer sees the beginning: {len(ids)} tokens leave a reply no room")
            reply = _reply(loaded, ids, "auto", temperature, max_new_tokens, seed=number)
            turns[name].append({"role": "assistant", "content": reply})
            panels.append(Panel(Text(reply or "(nothing)"), title=Text(name)))
        console.print(Columns(panels, equal=True, expand=True))


def _reply(
    loaded: Loaded,
    ids: np.ndarray,
    template: str,
    temperature: float,
    max_new_tokens: int,
    *,
    seed: int,
) -> str:
    ids = ids[-(loaded.context_length - max_new_tokens) :]
    drawn = sample(
        loaded.model,
        [ids],
        num=1,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        **ends(loaded, template),
    )
    return readable(drawn[0][0], loaded.tokenizer, after=ids).strip()
