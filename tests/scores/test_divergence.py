"""The KL that is shown: never negative, and on average over what the policy says the exact one."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import redpencil as rp
from redpencil.data.group import number_responses
from redpencil.data.tree import lay_trees
from redpencil.models.attention import install
from redpencil.scores.divergence import (
    NextTokens,
    drawn_token_kl,
    oracle_distributions,
    response_kl,
    tree_distributions,
)
from redpencil.scores.oracle import oracle_path_logps
from tiny_runs import recipe
from zoo import example, random_examples, tiny_model

LENGTH, WORDS = 3, 4


def every_sequence():
    """A batch with all 4**3 responses to one prompt, and its sequences (64, 3)."""
    sequences = np.array(list(product(range(WORDS), repeat=LENGTH)))
    batch = lay_trees(number_responses([example([0], *sequences.tolist())]))
    return batch, torch.from_numpy(sequences)


def chain(table, sequences):
    """Distributions of a first-order chain, (WORDS, WORDS) log-probabilities, that starts at 0."""
    before_E = torch.cat([torch.zeros(len(sequences), 1).long(), sequences[:, :-1]], 1).flatten()
    return NextTokens(table.shape[1], lambda at: table[before_E[at]])


def chain_logps(table, sequences):
    """(64, 3) log-probabilities of each token."""
    before = torch.cat([torch.zeros(len(sequences), 1).long(), sequences[:, :-1]], 1)
    return table[before, sequences]


@pytest.mark.parametrize("strength", [0.0, 1e-4, 0.1, 1.0, 4.0, 16.0])
def test_the_mean_over_all_responses_is_the_exact_kl(strength):
    torch.manual_seed(0)
    batch, sequences = every_sequence()
    ref = torch.randn(WORDS, WORDS, dtype=torch.float64).log_softmax(1)
    pi = (ref + strength * torch.randn(WORDS, WORDS, dtype=torch.float64)).log_softmax(1)
    ours, theirs = (chain_logps(t, sequences) for t in (pi, ref))
    weights = ours.sum(1).exp()
    exact = (weights * (ours - theirs).sum(1)).sum()
    values = response_kl(chain(pi, sequences), chain(ref, sequences), batch)
    assert (values >= 0).all()
    torch.testing.assert_close((weights * values).sum(), exact, rtol=1e-10, atol=1e-12)
    drawn = drawn_token_kl(ours, theirs).sum(1)
    assert (drawn >= 0).all()
    torch.testing.assert_close((weights * drawn).sum(), exact, rtol=1e-8, atol=1e-12)
    if strength:  # what was shown before goes below 0
        assert ((ours - theirs).sum(1) < 0).any()


@pytest.mark.parametrize("strength", [0.1, 1.0, 4.0, 16.0])
def test_it_has_less_chance_in_it_than_either_of_the_drawn_tokens(strength):
    """Standard deviations over responses of the policy, exact, by enumeration."""
    torch.manual_seed(1)
    batch, sequences = every_sequence()
    ref = torch.randn(WORDS, WORDS, dtype=torch.float64).log_softmax(1)
    pi = (ref + strength * torch.randn(WORDS, WORDS, dtype=torch.float64)).log_softmax(1)
    ours, theirs = (chain_logps(t, sequences) for t in (pi, ref))
    weights = ours.sum(1).exp()

    def spread(values):
        mean = (weights * values).sum()
        return float((weights * (values - mean) ** 2).sum())

    whole = spread(response_kl(chain(pi, sequences), chain(ref, sequences), batch))
    assert whole <= spread((ours - theirs).sum(1))
    assert whole <= spread(drawn_token_kl(ours, theirs).sum(1))


@given(
    st.lists(st.floats(-80, 80, width=32), min_size=6, max_size=6),
    st.floats(-1, 1, width=32),
    st.sampled_from([0.0, 1e-7, 1e-3, 1.0, 100.0]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_it_is_never_negative_and_zero_for_the_same(values, shift, scale, forbidden):
    batch = lay_trees(number_responses([example([0], [1, 2])]))
    logits = torch.tensor(values).reshape(2, 3)
    if forbidden:
        logits[:, 2] = -torch.inf
    moved = logits + scale * torch.tensor([[0.3, -0.7, shift]]).expand(2, 3)
    ours, theirs = (NextTokens(3, x.log_softmax(1).__getitem__) for x in (moved, logits))
    kl = response_kl(ours, theirs, batch)
    assert kl.isfinite().all() and (kl >= 0).all()
    assert response_kl(ours, ours, batch).tolist() == [0.0]


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "cohere"])
def test_trees_and_the_oracle_agree_with_the_models_own_logits(name):
    policy, reference = tiny_model(name), tiny_model(name, hidden_size=48)
    examples = number_responses(random_examples(0, 3, prompts=3))
    batch = lay_trees(examples)
    with torch.no_grad():
        wanted = []
        for e in examples:
            for response in e.responses:
                ids = torch.from_numpy(np.concatenate([e.prompt_ids, response.ids])).long()[None]
                begin = len(e.prompt_ids) - 1
                a, b = (
                    m(input_ids=ids).logits[0, begin:-1].double().log_softmax(1)
                    for m in (policy, reference)
                )
                wanted.append((a.exp() * (a - b)).sum())
        padded = response_kl(
            oracle_distributions(policy, batch), oracle_distributions(reference, batch), batch
        )
        for model in (policy, reference):
            install(model)
        trees = response_kl(
            tree_distributions(policy, batch), tree_distributions(reference, batch), batch
        )
        mixed = response_kl(
            tree_distributions(policy, batch), oracle_distributions(reference, batch), batch
        )
        assert len(oracle_path_logps(policy, batch)) == len(batch.path_response)
    wanted = torch.stack(wanted)
    assert wanted.min() > 0.01
    # A few hundred terms in float32, whose log-probabilities are right to some 1e-6.
    for found in (padded, trees, mixed):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_padded_vocabulary_is_compared_where_both_have_entries():
    batch = lay_trees(number_responses([example([0], [1, 2])]))
    table = torch.randn(2, 5).log_softmax(1)
    wider = torch.cat([table, torch.full((2, 3), -1e4)], 1).log_softmax(1)
    kl = response_kl(NextTokens(5, table.__getitem__), NextTokens(8, wider.__getitem__), batch)
    assert kl.item() == pytest.approx(0, abs=1e-6)


def shown_kl(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [v for row in rows for name, v in row.items() if name in ("kl", "eval/kl")]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"lora_rank": 2}], ids=["all", "adapters"])
def test_no_run_shows_a_negative_kl(base, pairs, tmp_path, seed, options, capsys):
    """A hardly moved model and two samples: half of the plain means are below 0."""
    small = {"learning_rate": 1e-5, "max_steps": 2, "eval_every": 1, "epochs": 1}
    run = rp.train(recipe(base, pairs, tmp_path / "run", seed=seed, **small, **options))
    values = shown_kl(Path(run.path))
    assert len(values) == 3 and values[0] == 0 and min(values) >= 0
    said = capsys.readouterr().out
    assert "KL -" not in said and "KL \u2212" not in said
    assert run.summary["kl"]["mean"] == values[-1]
