"""Work on the review world that the demo and the frontier share: pi_ref, completions, judging."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redpencil.console import progress_bar
from redpencil.data.tokenize import prompt_ids, readable
from redpencil.folders.run import RunFolder
from redpencil.models.export import save_model
from redpencil.recipes.stages import SftRecipe
from redpencil.rollout.sample import sample
from redpencil.stages.run import Run, train
from redpencil.use.api import Loaded
from redpencil.use.completing import kl_of, logps_of
from redpencil.world.fluency import reads_as_review
from redpencil.world.model import fresh_model
from redpencil.world.pairs import label_pairs, sft_rows
from redpencil.world.reward import true_reward
from redpencil.world.settings import DemoSettings
from redpencil.world.tokenizer import world_tokenizer


@dataclass(frozen=True, slots=True)
class Completed:
    """M completions of each of P prefixes.

    completions: token ids, [P][M]; texts: whole reviews, [P][M]; rewards: (P, M) true ones.
    """

    starts: list[str]
    completions: list[list[np.ndarray]]
    texts: list[list[str]]
    rewards: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.rewards.mean())

    @property
    def stderr(self) -> float:
        """Of the mean, the prefixes being a sample."""
        return standard_error(self.rewards.mean(axis=1))

    @property
    def fluent(self) -> float:
        """Share of texts that read as reviews."""
        return float(np.mean([reads_as_review(text) for each in self.texts for text in each]))


def standard_error(values: np.ndarray) -> float:
    """Of the mean of independent values (N,)."""
    return float(values.std(ddof=1) / len(values) ** 0.5)


def make_world(out: Path, settings: DemoSettings, seed: int) -> tuple[Path, Path]:
    """Reviews and a model that knows nothing yet, in `out/world`; their paths."""
    start, data = out / "world" / "model", out / "world" / "reviews.jsonl"
    if not start.is_dir():
        tokenizer = world_tokenizer()
        RunFolder(data.parent).write_rows(data.name, sft_rows(settings.reviews, seed))
        save_model(fresh_model(tokenizer, seed), tokenizer, start)
    return start, data


def fit_reference(out: Path, settings: DemoSettings, seed: int) -> Run:
    """A language model of reviews, from scratch: the world's pi_ref, in `out/sft`."""
    start, data = make_world(out, settings, seed)
    return train(
        SftRecipe(
            model=str(start),
            data=str(data),
            out=str(out / "sft"),
            eval_fraction=0.02,
            group_prompts=False,
            batch_size=settings.sft_batch_size,
            learning_rate=settings.sft_learning_rate,
            warmup_steps=settings.sft_warmup_steps,
            max_grad_norm=settings.max_grad_norm,
            checkpoint_every=10_000,
            sample_prompts=8,
            sample_tokens=settings.max_new_tokens,
            seed=seed,
        )
    )


def complete(
    loaded: Loaded, starts: Sequence[str], settings: DemoSettings, *, num: int, seed: int
) -> Completed:
    """Sample `num` completions of each prefix and look up their true rewards."""
    tokenizer = loaded.tokenizer
    with progress_bar() as bar:
        row = bar.add_task("sampling", total=len(starts))
        completions = sample(
            loaded.model,
            [prompt_ids(start, tokenizer) for start in starts],
            num=num,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            eos_ids=[tokenizer.eos_token_id],
            pad_id=tokenizer.pad_token_id,
            seed=seed,
            batch_size=256,
            progress=lambda done: bar.advance(row, done),
        )
    texts = [
        [start + readable(c, tokenizer) for c in each]
        for start, each in zip(starts, completions, strict=True)
    ]
    rewards = np.array([[true_reward(text) for text in each] for each in texts])
    return Completed(list(starts), completions, texts, rewards)


def labelled_rows(completed: Completed, settings: DemoSettings, seed: int) -> list[dict[str, Any]]:
    """Rows of preferences: all pairs of a prefix's completions, labelled from the true reward."""
    rng = random.Random(f"labels {seed}")
    each = zip(completed.starts, completed.texts, completed.rewards.tolist(), strict=True)
    return [
        label_pairs(
            start,
            [text.removeprefix(start) for text in texts],
            rewards,
            rng,
            settings.label_temperature,
        )
        for start, texts, rewards in each
    ]


def response_logps(
    loaded: Loaded, starts: Sequence[str], completions: Sequence[Sequence[np.ndarray]]
) -> np.ndarray:
    """log pi(y|x) of M completions of each of P prefixes: (P, M) float64, nats."""
    ids = [prompt_ids(start, loaded.tokenizer) for start in starts]
    return logps_of(loaded, ids, completions)


def response_kl(policy: Loaded, reference: Loaded, drawn: Completed) -> np.ndarray:
    """KL(policy || reference) of a policy's own completions: (P, M) float64, nats."""
    ids = [prompt_ids(start, policy.tokenizer) for start in drawn.starts]
    return kl_of(policy, reference, ids, drawn.completions)
