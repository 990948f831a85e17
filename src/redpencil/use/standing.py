"""Where a policy stands: its expected reward and its KL from a reference, on given prompts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from redpencil.data.tokenize import readable
from redpencil.evals.points import Point, policy_point
from redpencil.models.tokenizer import require_same_tokens
from redpencil.rollout.rewards import Reward
from redpencil.rollout.sample import sample
from redpencil.use.api import Loaded
from redpencil.use.completing import ends, ids_of, kl_of


def reward_and_kl(
    policy: Loaded,
    reference: Loaded,
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
    KL in nats of whole responses. Raises ModelError where the tokenizers differ.
    """
    require_same_tokens(policy.tokenizer, reference.tokenizer, name="the policy", reference="given")
    ids = [ids_of(policy, prompt, chat_template) for prompt in prompts]
    drawn = _draw(policy, ids, num, max_new_tokens, seed)
    kl = kl_of(policy, reference, ids, drawn)
    return policy_point(_rewards(policy, prompts, ids, drawn, reward), kl)


def sampled_rewards(
    policy: Loaded,
    prompts: Sequence[Any],
    reward: Reward,
    *,
    num: int,
    max_new_tokens: int = 128,
    chat_template: str = "auto",
    seed: int = 0,
) -> np.ndarray:
    """(P, num) rewards of completions of each prompt at temperature 1: of a reference, what best of
    n and the exact optimum are computed from."""
    ids = [ids_of(policy, prompt, chat_template) for prompt in prompts]
    drawn = _draw(policy, ids, num, max_new_tokens, seed)
    return _rewards(policy, prompts, ids, drawn, reward)


def _draw(
    policy: Loaded, ids: Sequence[np.ndarray], num: int, max_new_tokens: int, seed: int
) -> list[list[np.ndarray]]:
    return sample(
        policy.model,
        ids,
        num=num,
        max_new_tokens=max_new_tokens,
        temperature=1.0,
        seed=seed,
        **ends(policy),
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
    return np.array(reward(asked, texts, [{} for _ in texts])).reshape(len(ids), -1)
