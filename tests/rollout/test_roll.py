"""Rollouts: drawn, rewarded, scored token by token by the policy and the reference."""

import numpy as np
import pytest
import torch

from redpencil.data.loader import all_once
from redpencil.data.prompts import Prompt
from redpencil.data.tree import lay_trees
from redpencil.errors import ModelError
from redpencil.models.attention import install
from redpencil.models.value import add_value_head, without_value_head
from redpencil.objectives.policy import generalized_advantages, leave_one_out
from redpencil.rollout.roll import Roller, Sampler, check_sampler
from redpencil.rollout.sample import as_examples
from redpencil.scores.forward import path_logps, path_logps_and_values, tree_logps
from redpencil.scores.oracle import oracle_path_logps
from redpencil.stages.tasks import rl_task
from redpencil.types import Origin
from zoo import tiny_model

EOS = 3


def prompts():
    return [
        Prompt(
            ids=np.array(ids, dtype=np.int32),
            content=" ".join(map(str, ids)),
            prompt_key=str(ids),
            row={"number": number},
            origin=Origin("prompts.jsonl", number),
        )
        for number, ids in enumerate([[5, 6, 7], [8], [9, 10, 11, 12]])
    ]


def by_length(asked, responses, rows):
    return [len(r.split()) / 4 + row["number"] for r, row in zip(responses, rows, strict=True)]


def roller(model, reference, **changed):
    options = {
        "sampler": Sampler(num=3, max_new_tokens=6, end_ids=[EOS]),
        "read": lambda completion, prompt: " ".join(map(str, completion)),
        "reward": by_length,
        "score": path_logps,
        "reference": lambda batch: path_logps(reference, batch),
        "critic": None,
        "lay": lambda examples: all_once(examples, 24),
        "beta": 0.1,
        "advantage": "rloo",
        "gae_lambda": 0.0,
        **changed,
    }
    return Roller(model=model, **options)


def installed(architecture, **options):
    model = tiny_model(architecture, **options)
    install(model)
    return model


@pytest.fixture
def models():
    return installed("llama", seed=1), installed("llama", seed=2)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_token_by_token_the_tree_is_the_oracle(architecture):
    """Also where two completions are the same, or one begins the other."""
    model = installed(architecture)
    completions = [[np.array(ids, dtype=np.int32) for ids in ([4, 5], [4, 5], [4], [4, 6, 7])]]
    batch = lay_trees(as_examples([np.array([8, 9], dtype=np.int32)], completions))
    assert batch.lengths.tolist() == [2, 2, 1, 3]
    torch.testing.assert_close(
        path_logps(model, batch), oracle_path_logps(model, batch), rtol=1e-5, atol=1e-5
    )
    sums = torch.stack([part.sum() for part in path_logps(model, batch).split([2, 2, 1, 3])])
    torch.testing.assert_close(sums, tree_logps(model, batch))


def test_rollouts_know_policy_reference_and_reward(models):
    model, reference = models
    examples = roller(model, reference)(prompts(), 7)
    assert [len(e.responses) for e in examples] == [3, 3, 3]
    batch = lay_trees(examples)
    torch.testing.assert_close(batch.rollouts.pi_logps, path_logps(model, batch).detach())
    torch.testing.assert_close(batch.rollouts.ref_logps, path_logps(reference, batch).detach())
    for number, example in enumerate(examples):
        totals = []
        for response in example.responses:
            drawn = response.rollout
            assert drawn.reward == len(response.ids) / 4 + number
            totals.append(drawn.reward - 0.1 * (drawn.pi_logps - drawn.ref_logps).sum())
        expected = leave_one_out(np.array(totals))
        for response, advantage in zip(example.responses, expected, strict=True):
            np.testing.assert_allclose(response.rollout.advantages, advantage, rtol=1e-4, atol=1e-6)


def test_the_seed_decides_what_is_drawn(models):
    make = roller(*models)
    one, same, other = (
        [r.ids.tolist() for e in make(prompts(), s) for r in e.responses] for s in (1, 1, 2)
    )
    assert one == same != other


def test_a_critic_gives_the_advantages_and_they_are_whitened(models):
    model, reference = models
    head = add_value_head(model)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))

    def critic(policy, batch):
        return path_logps_and_values(policy, head, batch)

    make = roller(model, reference, critic=critic, advantage="gae", gae_lambda=0.9)
    examples = make(prompts(), 3)
    batch = lay_trees(examples)
    logps, values = critic(model, batch)
    torch.testing.assert_close(logps, path_logps(model, batch))
    raw = []
    rollouts = [r.rollout for e in examples for r in e.responses]
    each = values.detach().split(batch.lengths.tolist())
    for drawn, expected in zip(rollouts, each, strict=True):
        earned = -0.1 * (drawn.pi_logps - drawn.ref_logps)
        earned[-1] += drawn.reward
        advantages, returns = generalized_advantages(earned, expected.numpy(), 0.9)
        np.testing.assert_allclose(drawn.returns, returns, rtol=1e-4, atol=1e-5)
        raw.append(advantages)
    flat = np.concatenate(raw)
    np.testing.assert_allclose(
        batch.rollouts.advantages, (flat - flat.mean()) / flat.std(), rtol=1e-3, atol=1e-4
    )


def test_the_task_sums_the_surrogate_over_each_response(models):
    """At the policy that drew, a response's loss is minus the sum of its advantages, and nothing is
    clipped; how micro-batches are cut does not matter."""
    model, reference = models
    task = rl_task(path_logps, None, clip=0.2, value_coefficient=0.0, beta=0.1)
    examples = roller(model, reference)(prompts(), 7)
    measured = task.measure(model, lay_trees(examples))
    expected = [-r.rollout.advantages.sum() for e in examples for r in e.responses]
    np.testing.assert_allclose(measured.losses.detach(), expected, rtol=1e-4, atol=1e-5)
    found = {name: float(value) for name, value in measured.statistics.items()}
    rollouts = [r.rollout for e in examples for r in e.responses]
    ratios = [r.pi_logps.astype(float) - r.ref_logps for r in rollouts]
    kl = sum((np.exp(-d) - 1 + d).sum() for d in ratios)  # Schulman's k3, never negative
    reward = sum(r.reward for r in rollouts)
    assert found["reward"] == pytest.approx(reward, rel=1e-5)
    assert found["kl"] == pytest.approx(kl, rel=1e-4)
    assert found["objective"] == pytest.approx(reward - 0.1 * kl, rel=1e-4)
    assert found["length"] == sum(len(r.pi_logps) for r in rollouts)
    assert found["policy/clipped"] == 0
    assert found["policy/moved"] == pytest.approx(0, abs=1e-6)
    apart = [task.measure(model, lay_trees([e])).losses for e in examples]
    torch.testing.assert_close(torch.cat(apart), measured.losses, rtol=1e-4, atol=1e-5)


def test_the_critic_is_not_part_of_the_saved_model(models):
    model, _ = models
    names = set(model.state_dict())
    add_value_head(model)
    assert set(model.state_dict()) - names == {"value_head.weight", "value_head.bias"}
    with without_value_head(model):
        assert set(model.state_dict()) == names
    assert "value_head.weight" in model.state_dict()


def test_sampler_and_scorer_are_compared(models):
    """Side by side, the shorter prompt padded."""
    model, reference = models
    unlike = [np.array(ids, dtype=np.int32) for ids in ([5], [5, 6, 7, 8])]
    assert check_sampler(model, unlike, [EOS], path_logps, max_new_tokens=8) < 1e-4
    with pytest.raises(ModelError, match="differ from the scorer's by up to"):
        check_sampler(
            model, unlike, [EOS], lambda _, batch: path_logps(reference, batch), max_new_tokens=8
        )


def test_a_generation_config_does_not_bend_the_distribution(models):
    """What comes with a model (here the likeliest half of the vocabulary only) is out of force, and
    in force again afterwards."""
    model, _ = models
    unlike = [np.array(ids, dtype=np.int32) for ids in ([5], [5, 6, 7, 8])]
    plain = Sampler(num=2, max_new_tokens=8, end_ids=[EOS])(model, prompts(), 1)
    model.generation_config.min_p = 0.9
    model.generation_config.suppress_tokens = list(range(10, 40))
    bent = Sampler(num=2, max_new_tokens=8, end_ids=[EOS])(model, prompts(), 1)
    assert [c.tolist() for e in bent for c in e] == [c.tolist() for e in plain for c in e]
    assert check_sampler(model, unlike, [EOS], path_logps, max_new_tokens=8) < 1e-4
    assert model.generation_config.min_p == 0.9
