"""The paper's theory, on a world where every response is listed and nothing is an estimate.

DPO on exact Bradley-Terry preferences, RL on the exact reward, and a transformer trained by the
engine all end at pi*(y|x) = pi_ref(y|x) exp(r(x, y) / beta) / Z(x) (paper Eq. 4).
"""

from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from redpencil.data.loader import all_once
from redpencil.engine.step import train_step
from redpencil.models.attention import install
from redpencil.objectives import bind
from redpencil.objectives.policy import (
    clipped_surrogate,
    generalized_advantages,
    leave_one_out,
    token_rewards,
)
from redpencil.optim import (
    OptimConfig,
    build_optimizer,
    learning_rate_at,
    set_learning_rate,
)
from redpencil.scores.forward import tree_logps
from redpencil.stages.tasks import preference_task
from redpencil.types import Batch, Comparison, Example, Origin, Pairs, Response, Scores, TreeBatch
from redpencil.world.enumerable import enumerable_world, optimum, preferences

WORLD = enumerable_world(3)
PROMPTS, RESPONSES = WORLD.reward.shape
REFERENCE = torch.from_numpy(WORLD.reference)
A, B = np.array(list(combinations(range(RESPONSES), 2))).T


def total_variation(policy: Tensor, best: np.ndarray) -> float:
    """The largest over prompts."""
    return float((policy - torch.from_numpy(best)).abs().sum(1).max() / 2)


def all_pairs(reward: np.ndarray) -> Pairs:
    """Every pair of every prompt's responses with its exact probability (paper Eq. 1), indices into
    the flat (P Y,) responses."""
    first = (np.arange(PROMPTS)[:, None] * RESPONSES).repeat(len(A), axis=1)
    ones = torch.ones(PROMPTS * len(A), dtype=torch.float64)
    return Pairs(
        chosen=torch.from_numpy((first + A).ravel()),
        rejected=torch.from_numpy((first + B).ravel()),
        weight=ones,
        margin=0 * ones,
        probability=torch.from_numpy(preferences(reward)[:, A, B].ravel()),
    )


def scores_of(policy_logps: Tensor) -> Scores:
    return Scores(
        pi_logps=policy_logps.flatten(),
        ref_logps=REFERENCE.log().flatten(),
        lengths=torch.full((policy_logps.numel(),), 3),
        weights=torch.ones(policy_logps.numel()),
    )


def fitted(name: str, pairs: Pairs, beta: float) -> Tensor:
    """(P, Y) the tabular policy at which the objective's mean loss is least, from the reference."""
    logits = REFERENCE.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=100,
        tolerance_grad=1e-12,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = bind(name, beta=beta)(scores_of(logits.log_softmax(1)), pairs).losses.mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().softmax(1)


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_dpo_on_exact_preferences_reaches_the_optimum(beta: float) -> None:
    """And its implicit reward is the reward up to a function of the prompt (Theorem 1)."""
    best = optimum(WORLD.reference, WORLD.reward, beta)
    policy = fitted("dpo", all_pairs(WORLD.reward), beta)
    assert total_variation(policy, best.policy) < 1e-4
    assert total_variation(REFERENCE, best.policy) > 0.2  # there was a way to go
    beyond = beta * (policy / REFERENCE).log().numpy() - WORLD.reward
    np.testing.assert_allclose(np.ptp(beyond, axis=1), 0, atol=5e-3)
    # The function of the prompt is -beta log Z, for the policy is normalised (Eq. 5).
    np.testing.assert_allclose(beyond.mean(axis=1), -beta * best.log_z, atol=5e-3)


def test_rewards_of_one_class_have_the_same_preferences_and_optimum() -> None:
    """Lemmas 1 and 2: r and r + f(x)."""
    moved = WORLD.reward + np.array([[5.0], [-3.0], [0.7]])
    np.testing.assert_allclose(preferences(moved), preferences(WORLD.reward), atol=1e-12)
    a, b = (optimum(WORLD.reference, r, 0.3).policy for r in (WORLD.reward, moved))
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_other_preferences_lead_elsewhere() -> None:
    """Negative control: the reward of another world is not learned from this one's preferences."""
    other = optimum(WORLD.reference, -WORLD.reward, 1.0).policy
    policy = fitted("dpo", all_pairs(WORLD.reward), 1.0)
    assert total_variation(policy, other) > 0.3


def test_plackett_luce_of_two_is_bradley_terry() -> None:
    """A choice of two has the probability of the world's own preference, for every pair."""
    certain = all_pairs(WORLD.reward)
    truth = Scores(
        pi_logps=torch.from_numpy(WORLD.reward).flatten(),
        ref_logps=torch.zeros(PROMPTS * RESPONSES, dtype=torch.float64),
        lengths=torch.ones(PROMPTS * RESPONSES),
        weights=torch.ones(PROMPTS * RESPONSES),
    )
    for i in range(0, len(certain.chosen), 4999):
        pair = Pairs(
            **{
                name: getattr(certain, name)[i : i + 1]
                for name in ("chosen", "rejected", "weight", "margin", "probability")
            }
        )
        loss = bind("plackett-luce", beta=1.0)(truth, pair).losses.sum()
        assert float(torch.exp(-loss)) == pytest.approx(float(pair.probability), rel=1e-12)


# RL: the same world said word by word, so that log-probabilities are of tokens.


class Words(torch.nn.Module):
    """A tabular policy over responses of three words: a table of logits for each beginning."""

    def __init__(self, policy: Tensor) -> None:
        super().__init__()
        table = policy.reshape(PROMPTS, 6, 6, 6)
        marginals = [table.sum((2, 3)), table.sum(3), table]
        self.logits = torch.nn.ParameterList([m.log().clone() for m in marginals])

    def token_logps(self) -> Tensor:
        """(P, Y, 3) log-probability of each word of each response."""
        steps = [logits.log_softmax(-1) for logits in self.logits]
        shapes = [(PROMPTS, 6, 1, 1), (PROMPTS, 6, 6, 1), (PROMPTS, 6, 6, 6)]
        wide = [s.reshape(shape).expand(shapes[2]) for s, shape in zip(steps, shapes, strict=True)]
        return torch.stack(wide, -1).reshape(PROMPTS, RESPONSES, 3)


REF_TOKENS = Words(REFERENCE).token_logps().detach()


def totals_of(logps: Tensor, beta: float) -> np.ndarray:
    """(P, Y) r - beta log pi/pi_ref (paper Eq. 3) under the policy of these (P, Y, 3) tokens."""
    return WORLD.reward - beta * (logps - REF_TOKENS).sum(-1).numpy()


def test_at_the_optimum_every_response_earns_beta_log_z() -> None:
    """Put together from what each token earns; so there is nothing left to learn (Eq. 5)."""
    best = optimum(WORLD.reference, WORLD.reward, 0.5)
    tokens = Words(torch.from_numpy(best.policy)).token_logps().detach()
    for x, y in product(range(PROMPTS), range(0, RESPONSES, 7)):
        pi, ref = tokens[x, y].numpy(), REF_TOKENS[x, y].numpy()
        earned = token_rewards(WORLD.reward[x, y], pi, ref, 0.5).sum()
        assert earned == pytest.approx(0.5 * best.log_z[x], abs=1e-5)
        assert earned == pytest.approx(totals_of(tokens, 0.5)[x, y], abs=1e-5)


Rollouts = tuple[Tensor, Tensor]
"""weights (P, Y): how often each response was drawn. advantages (P, Y, 3): of its tokens."""


def every_response(logps: Tensor, beta: float) -> Rollouts:
    """Each response once, by its probability: leave-one-out of infinitely many rollouts."""
    drawn, totals = logps.sum(-1).exp(), torch.from_numpy(totals_of(logps, beta))
    advantages = totals - (drawn * totals).sum(1, keepdim=True)
    return drawn, advantages[..., None].expand(logps.shape)


class LeaveOneOut:
    """32 sampled rollouts of each prompt, each compared with the others (RLOO)."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, logps: Tensor, beta: float) -> Rollouts:
        drawn = torch.multinomial(logps.sum(-1).exp(), 32, True, generator=self.generator)
        totals = np.take_along_axis(totals_of(logps, beta), drawn.numpy(), 1)
        advantages = torch.from_numpy(np.stack([leave_one_out(row) for row in totals]))
        share = torch.full_like(advantages, 1 / 32)
        weights = torch.zeros(PROMPTS, RESPONSES, dtype=torch.float64).scatter_add(1, drawn, share)
        by_response = torch.zeros_like(weights).scatter(1, drawn, advantages)
        return weights, by_response[..., None].expand(logps.shape)


class OfCritic:
    """32 sampled rollouts of each prompt, and a tabular critic of what follows each beginning: the
    running mean of the returns seen from there."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.values = torch.zeros(PROMPTS, 1 + 6 + 36, dtype=torch.float64)
        response = torch.arange(RESPONSES)
        self.states = torch.stack([0 * response, 1 + response // 36, 7 + response // 6], 1)

    def __call__(self, logps: Tensor, beta: float) -> Rollouts:
        drawn = torch.multinomial(logps.sum(-1).exp(), 32, True, generator=self.generator)
        weights = torch.zeros(PROMPTS, RESPONSES, dtype=torch.float64)
        advantages = torch.zeros(logps.shape, dtype=torch.float64)
        before = self.values.clone()
        for x, k in product(range(PROMPTS), range(32)):
            y = int(drawn[x, k])
            states = self.states[y]
            earned = token_rewards(
                WORLD.reward[x, y], logps[x, y].numpy(), REF_TOKENS[x, y].numpy(), beta
            )
            found, returns = generalized_advantages(earned, before[x, states].numpy(), 0.95)
            weights[x, y] += 1 / 32
            advantages[x, y] = torch.from_numpy(found)
            self.values[x, states] += 0.05 * (torch.from_numpy(returns) - self.values[x, states])
        return weights, advantages


def rl(rollouts: Callable[[Tensor, float], Rollouts], beta: float, rounds: int) -> Tensor:
    """(P, Y) the tabular policy after PPO's clipped surrogate, two passes over each rollout."""
    policy = Words(REFERENCE)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 - n / (2 * rounds))
    for _ in range(rounds):
        old = policy.token_logps().detach()
        weights, advantages = rollouts(old, beta)
        for _ in range(2):
            optimizer.zero_grad()
            new = policy.token_logps()
            flat = (t.flatten() for t in (new, old, advantages))
            losses = clipped_surrogate(*flat, clip=0.2).reshape(old.shape).sum(-1)
            (losses * weights).sum().backward()
            optimizer.step()
            schedule.step()
    return policy.token_logps().detach().sum(-1).exp()


@pytest.mark.parametrize("beta", [0.2, 0.5])
def test_rl_on_the_exact_reward_reaches_the_same_optimum(beta: float) -> None:
    best = optimum(WORLD.reference, WORLD.reward, beta)
    assert total_variation(rl(every_response, beta, rounds=300), best.policy) < 0.005


@pytest.mark.parametrize(
    ("rollouts", "rounds", "within"), [(LeaveOneOut, 300, 0.03), (OfCritic, 200, 0.06)]
)
def test_sampled_rollouts_come_near_it(
    rollouts: Callable[[], Callable[[Tensor, float], Rollouts]], rounds: int, within: float
) -> None:
    """32 rollouts of each prompt a round. At pi* all earn the same, so the noise dies out."""
    best = optimum(WORLD.reference, WORLD.reward, 0.5)
    assert total_variation(REFERENCE, best.policy) > 0.5
    assert total_variation(rl(rollouts(), 0.5, rounds), best.policy) < within


# A transformer: six tokens, a prompt of one, responses of three, so that the 216 listed responses
# are all it can say and its policy is known exactly.


def tiny_gpt2() -> GPT2LMHeadModel:
    """Its learned positions tell "0" from "0 0", which rotary ones of a single token do not."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=6,
        n_positions=4,
        n_embd=64,
        n_layer=2,
        n_head=4,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval()  # without dropout
    install(model)
    return model


def all_responses() -> TreeBatch:
    """One micro-batch of three trees; each holds all responses and all of their comparisons."""
    ids = np.array(list(product(range(6), repeat=3)), dtype=np.int32)
    chances = preferences(WORLD.reward)
    examples = [
        Example(
            prompt_ids=np.array([x], dtype=np.int32),
            responses=tuple(
                Response(ids=y, scored=np.ones(3, dtype=bool), origin=Origin("world", x + 1))
                for y in ids
            ),
            comparisons=tuple(
                Comparison(chosen=int(a), rejected=int(b), probability=float(chances[x, a, b]))
                for a, b in zip(A, B, strict=True)
            ),
            prompt_key=str(x),
            response_base=x * RESPONSES,
        )
        for x in range(PROMPTS)
    ]
    (batch,) = all_once(examples, 10_000)
    return batch


def test_a_transformer_trained_by_the_engine_comes_near_the_optimum() -> None:
    """Reference: the model as it began. Optimum: exact, by enumeration."""
    model, batch, beta, steps = tiny_gpt2(), all_responses(), 0.5, 120

    def policy_logps() -> Tensor:
        with torch.no_grad():
            flat = torch.zeros(PROMPTS * RESPONSES)
            return flat.index_put((batch.response_index,), tree_logps(model, batch))

    def policy() -> Tensor:
        return policy_logps().double().exp().reshape(PROMPTS, RESPONSES)

    began = policy_logps()
    best = optimum(policy().numpy(), WORLD.reward, beta).policy
    # Each of the 216 is exp of a float32 sum of log-probabilities: off by its rounding, relatively.
    rounding = 4 * torch.finfo(torch.float32).eps * float(began.abs().max())
    assert (policy().sum(1) - 1).abs().max() <= rounding
    assert total_variation(policy(), best) > 0.4
    task = preference_task(
        "dpo",
        {"beta": beta, "label_smoothing": 0.0},
        tree_logps,
        lambda b: began[b.response_index],
    )
    config = OptimConfig(learning_rate=0.01, warmup_steps=10, schedule="cosine")
    optimizer = build_optimizer(model.named_parameters(), config)
    for step in range(1, steps + 1):
        set_learning_rate(optimizer, learning_rate_at(step, config, steps))
        train_step(model, optimizer, Batch((batch,)), task, max_grad_norm=1.0)
    assert total_variation(policy(), best) < 0.1
