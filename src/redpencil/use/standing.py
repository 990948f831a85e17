"""Where a policy stands: its expected reward and its KL from a reference, on given prompts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from redpencil.data.tokenize import readable
from redpencil.errors import RecipeError, RewardError, not_a
from redpencil.evals.points import Point, policy_point
from redpencil.models.tokenizer import require_same_tokens
from redpencil.rollout.rewards import Reward
from redpencil.rollout.sample import sample
from redpencil.use.api import Loaded, as_loaded, whole_number
from redpencil.use.completing import ends, ids_of, kl_of


def reward_and_kl(
    policy: Loaded | str | Path,
    reference: Loaded | str | Path,
    prompts: Sequence[Any],
    reward: Reward,
    *,
    num: int = 1,
    max_new_tokens: int = 128,
    chat_template: str = "auto",
    seed: int = 0,
) -> Point:
    """Sample `num` completions of each prompt from `policy` at temperature 1, reward them, and
    compare what policy and reference, which read the same tokens, make of every next token.

    prompts: texts or lists of messages. reward: a function of prompts, responses and rows (empty
    here). The point has `.reward` and `.kl`, each a value with the standard errors `within`
    (prompts held fixed, from `num` above 1) and `total`; `reward_P` and `kl_P` are by prompt.
    KL in nats of whole responses. Raises ModelError where the tokenizers differ, RecipeError for an
    argument of another kind, RewardError for rewards that are not one number a response.
    """
    policy, reference = (as_loaded(m, what="reward_and_kl") for m in (policy, reference))
    _check("reward_and_kl", prompts, reward, num, max_new_tokens)
    require_same_tokens(policy.tokenizer, reference.tokenizer, name="the policy", reference="given")
    ids = [ids_of(policy, prompt, chat_template) for prompt in prompts]
    drawn = _draw(policy, ids, num, max_new_tokens, seed, chat_template)
    kl = kl_of(policy, reference, ids, drawn)
    return policy_point(_rewards(policy, prompts, ids, drawn, reward), kl)


def sampled_rewards(
    policy: Loaded | str | Path,
    prompts: Sequence[Any],
    reward: Reward,
    *,
    num: int,
    max_new_tokens: int = 128,
    chat_template: str = "auto",
    seed: int = 0,
) -> np.ndarray:
    """(P, num) rewards of completions of each prompt at temperature 1: of a reference, what best of
    n and the exact optimum are computed from. Raises as `reward_and_kl`."""
    policy = as_loaded(policy, what="sampled_rewards")
    _check("sampled_rewards", prompts, reward, num, max_new_tokens)
    ids = [ids_of(policy, prompt, chat_template) for prompt in prompts]
    drawn = _draw(policy, ids, num, max_new_tokens, seed, chat_template)
    return _rewards(policy, prompts, ids, drawn, reward)


def _draw(
    policy: Loaded,
    ids: Sequence[np.ndarray],
    num: int,
    max_new_tokens: int,
    seed: int,
    chat_template: str,
) -> list[list[np.ndarray]]:
    return sample(
        policy.model,
        ids,
        num=num,
        max_new_tokens=max_new_tokens,
        temperature=1.0,
        seed=seed,
        **ends(policy, chat_template),
    )


def _rewards(
    policy: Loaded,
    prompts: Sequence[Any],
    ids: Sequence[np.ndarray],
    drawn: Sequence[Sequence[np.ndarray]],
    reward: Reward,
) -> np.ndarray:
    texts = [
        readable(c, policy.tokenizer, after=p)
        for p, each in zip(ids, drawn, strict=True)
        for c in each
    ]
    asked = [p for p, each in zip(prompts, drawn, strict=True) for _ in each]
    given = reward(asked, texts, [{} for _ in texts])
    try:
        rewards = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        rewards = np.array([np.nan])
    if rewards.shape != (len(texts),) or not np.isfinite(rewards).all():
        raise RewardError(
            f"the reward must give one finite number for each of {len(texts)} responses, it gave "
            f"{given!r:.60}"
        )
    return rewards.reshape(len(ids), -1)


def _check(what: str, prompts: Any, reward: Any, num: Any, max_new_tokens: Any) -> None:
    """Raises RecipeError where what Python handed in is none of what the function takes."""
    wanted = "a list of prompts, each a text or a list of messages"
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Sequence):
        raise not_a(what, wanted, prompts)
    for prompt in prompts:
        turns = isinstance(prompt, Sequence) and all(isinstance(m, Mapping) for m in prompt)
        if not (isinstance(prompt, str) or (turns and prompt)):
            raise not_a(what, wanted + "; one of them", prompt)
    if not len(prompts):
        raise RecipeError(f"{what} takes {wanted}, got an empty one")
    if not callable(reward):
        raise not_a(f"{what}: reward", "a function of prompts, responses and rows", reward)
    for name, value in (("num", num), ("max_new_tokens", max_new_tokens)):
        if whole_number(f"{what}: {name}", value, 1) is None:
            raise not_a(f"{what}: {name}", "a whole number of at least 1", value)
