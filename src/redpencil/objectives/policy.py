"""Objectives of RL fine-tuning (paper Eq. 3): PPO's clipped surrogate, and two kinds of advantage.

The KL to the reference is part of the reward, as in the paper: a response y earns

    r(x, y) - beta (log pi(y|x) - log pi_ref(y|x)),

the second term token by token, the first at its last token. Nothing is discounted, so that the sum
over a response is exactly the objective. Advantages are numbers of the rollouts, found once with
the policy that drew them; the surrogate is differentiated with the policy as it is now.

E: scored tokens of all responses. K: responses of one prompt. L: scored tokens of one response.
"""

import numpy as np
import torch
from torch import Tensor


def clipped_surrogate(logps: Tensor, old_logps: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's losses (Schulman et al. 2017, arXiv 1707.06347, Eq. 7), to be summed over a response.

        ratio = pi(a|s) / pi_old(a|s),  -min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A)

    logps, old_logps, advantages: (E,). Where the policy still is the one that drew, the gradient is
    that of the policy-gradient theorem, -A grad log pi.
    """
    assert logps.shape == old_logps.shape == advantages.shape, (
        f"one value a token, got {tuple(logps.shape)}, {tuple(old_logps.shape)}, "
        f"{tuple(advantages.shape)}"
    )
    ratio = torch.exp(logps - old_logps)
    clamped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages, clamped * advantages)


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """(E,) squared errors of the critic, halved. They are not clipped as the policy's steps are: a
    bound would have to know the scale of the rewards."""
    return (values - returns).square() / 2


def token_rewards(
    reward: float, pi_logps: np.ndarray, ref_logps: np.ndarray, beta: float
) -> np.ndarray:
    """(L,) float32 what each token of a response earns; their sum is r - beta log(pi / pi_ref).

    pi_logps, ref_logps: (L,) of the tokens, under the policy that drew them and the reference.
    """
    earned = -beta * (pi_logps - ref_logps)
    earned[-1] += reward
    return earned.astype(np.float32)


def leave_one_out(totals: np.ndarray) -> np.ndarray:
    """(K,) advantages of a prompt's responses: each one's total over the mean of the others' (RLOO,
    Ahmadian et al. 2024, arXiv 2402.14740). The others say nothing of this one's tokens, so the
    gradient stays unbiased. K is at least 2."""
    count = len(totals)
    assert count > 1, f"leave-one-out needs two responses to a prompt, got {count}"
    return count / (count - 1) * (totals - totals.mean())


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns (L,) of one response (GAE, Schulman et al. 2015, arXiv 1506.02438,
    Eq. 16, undiscounted).

        delta_t = r_t + V_{t+1} - V_t,   A_t = sum_k lam^k delta_{t+k},   return_t = A_t + V_t

    rewards: (L,) by token. values: (L,), of the state before each token; after the last it is 0.
    lam 1: returns are what was earned from there on; 0: one step, then the critic's word.
    """
    assert rewards.shape == values.shape, (rewards.shape, values.shape)
    advantages = np.zeros_like(values)
    advantage = next_value = 0.0
    for t in reversed(range(len(rewards))):
        advantage = rewards[t] + next_value - values[t] + lam * advantage
        advantages[t], next_value = advantage, values[t]
    return advantages, advantages + values
