"""Completions of prompts as text, from a loaded model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from redpencil.api import Loaded
from redpencil.console import progress_bar
from redpencil.data.tokenize import prompt_ids, readable
from redpencil.errors import DataError
from redpencil.fitting import end_token_ids
from redpencil.rollout.sample import sample
from redpencil.types import Content


def complete(
    loaded: Loaded,
    prompts: Sequence[np.ndarray],
    *,
    num: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    what: str = "sampling",
) -> list[list[str]]:
    """`num` completions of each prompt's ids. what: labels the progress bar."""
    with progress_bar() as bar:
        row = bar.add_task(what, total=len(prompts))
        drawn = sample(
            loaded.model,
            prompts,
            num=num,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            progress=lambda done: bar.advance(row, done),
            **ends(loaded),
        )
    return [
        [readable(c, loaded.tokenizer, after=p) for c in each]
        for p, each in zip(prompts, drawn, strict=True)
    ]


def ids_of(loaded: Loaded, content: Any, chat_template: str) -> np.ndarray:
    """(P,) int32: what generation sees of a prompt, not empty. Raises DataError."""
    prompt: Content = content if isinstance(content, str) else tuple(content)
    ids = prompt_ids(prompt, loaded.tokenizer, chat_template=chat_template)
    if not len(ids):
        raise DataError("an empty prompt cannot be continued: this tokenizer has no start token")
    return ids


def ends(loaded: Loaded) -> dict[str, Any]:
    """`sample`'s end and padding tokens for a model."""
    found = end_token_ids(loaded.model, loaded.tokenizer, [])
    return {"eos_ids": found, "pad_id": found[0]}
