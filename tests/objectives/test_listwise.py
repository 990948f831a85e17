"""Plackett-Luce: a ranking by hand, with two responses it is DPO, and what is no ranking."""

import math
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redpencil.objectives import bind, pair_statistics, rewards_of
from redpencil.types import Pairs, Scores


def scores_of(pi: list[float], ref: list[float]) -> Scores:
    return Scores(
        pi_logps=torch.tensor(pi, dtype=torch.float64, requires_grad=True),
        ref_logps=torch.tensor(ref, dtype=torch.float64),
        lengths=torch.ones(len(pi), dtype=torch.int64),
        weights=torch.ones(len(pi)),
    )


def pairs_of(*pairs: tuple[int, int], weight=1.0, margin=0.0) -> Pairs:
    chosen, rejected = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    ones = torch.ones(len(pairs), dtype=torch.float64)
    columns = {
        "weight": ones * torch.as_tensor(weight, dtype=torch.float64),
        "margin": ones * torch.as_tensor(margin, dtype=torch.float64),
    }
    return Pairs(chosen=chosen, rejected=rejected, probability=ones, **columns)


def ranking(*best_first: int, **columns: object) -> Pairs:
    """All pairs of a ranking."""
    return pairs_of(*combinations(best_first, 2), **columns)


def loss_and_gradient(name: str, scores: Scores, pairs: Pairs, **options: float):
    total = bind(name, **options)(scores, pairs).losses.sum()
    (gradient,) = torch.autograd.grad(total, scores.pi_logps, retain_graph=True)
    return total.detach(), gradient


def test_three_ranked_by_hand() -> None:
    """beta 1, rhat = pi - ref = (ln 2, ln 3, ln 5), ranked 1 > 2 > 0. Eq. 20: of weights (2, 3, 5)
    first 3 / (3 + 5 + 2), then 5 / (5 + 2): loss = log(10/3) + log(7/5).
    Gradient: 1: 3/10 - 1; 2: 5/10 + (5/7 - 1); 0: 2/10 + 2/7."""
    scores = scores_of([math.log(2), math.log(3) - 4, math.log(5) - 1], [0.0, -4.0, -1.0])
    outcome = bind("plackett-luce", beta=1.0)(scores, ranking(1, 2, 0))
    assert outcome.losses.tolist() == pytest.approx([0.0, math.log(10 / 3), math.log(7 / 5)])
    assert outcome.rewards.tolist() == pytest.approx([math.log(2), math.log(3), math.log(5)])
    _, gradient = loss_and_gradient("plackett-luce", scores, ranking(1, 2, 0), beta=1.0)
    assert gradient.tolist() == pytest.approx([2 / 10 + 2 / 7, -7 / 10, 5 / 10 - 2 / 7])


def test_at_the_reference_all_orders_are_alike() -> None:
    """rhat = 0: a ranking of 4 has probability 1 / 4!."""
    scores = scores_of([-3.0, -900.0, -4.5, -1.0], [-3.0, -900.0, -4.5, -1.0])
    loss, _ = loss_and_gradient("plackett-luce", scores, ranking(2, 0, 3, 1))
    assert float(loss) == pytest.approx(math.log(24), abs=1e-12)


def test_probabilities_of_all_orders_sum_to_1() -> None:
    scores = scores_of([-3.0, -9.0, -4.5, -1.0], [-2.0, -9.5, -5.0, -3.0])
    costs = (
        loss_and_gradient("plackett-luce", scores, ranking(*order), beta=0.7)[0]
        for order in permutations(range(4))
    )
    assert sum(math.exp(-cost) for cost in costs) == pytest.approx(1.0, abs=1e-12)


logps = st.lists(st.floats(-300, 0), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None)
@given(pi=logps, ref=logps, beta=st.floats(0.01, 5), margin=st.floats(-2, 2))
def test_with_two_responses_it_is_dpo(
    pi: list[float], ref: list[float], beta: float, margin: float
) -> None:
    """Bradley-Terry is Plackett-Luce with K = 2: the same loss, gradient and statistics, to the
    bit."""
    scores = scores_of(pi, ref)
    pairs = pairs_of((0, 1), (3, 2), weight=[1.0, 2.5], margin=[margin, 0.0])
    listwise, pairwise = (
        loss_and_gradient(name, scores, pairs, beta=beta) for name in ("plackett-luce", "dpo")
    )
    assert all(torch.equal(a, b) for a, b in zip(listwise, pairwise, strict=True))
    a, b = (
        pair_statistics(
            rewards_of(bind(name, beta=beta), scores, pairs, scale=beta), scores.pi_logps, pairs
        )
        for name in ("plackett-luce", "dpo")
    )
    assert a == b


@settings(max_examples=60, deadline=None)
@given(pi=logps, ref=logps, beta=st.floats(0.01, 5), order=st.permutations(range(4)))
def test_never_more_than_dpo_of_the_same_pairs(
    pi: list[float], ref: list[float], beta: float, order: list[int]
) -> None:
    """1 + sum x <= prod (1 + x), choice by choice."""
    scores, pairs = scores_of(pi, ref), ranking(*order)
    listwise, _ = loss_and_gradient("plackett-luce", scores, pairs, beta=beta)
    pairwise, _ = loss_and_gradient("dpo", scores, pairs, beta=beta)
    assert float(listwise) <= float(pairwise) * (1 + 1e-12)


def test_rankings_of_a_batch_are_apart() -> None:
    """Two prompts in one micro-batch, one of 3 and one of 2, interleaved comparisons."""
    scores = scores_of([-3.0, -9.0, -4.5, -1.0, -7.0], [-2.0, -9.5, -5.0, -3.0, -6.0])
    first, second = list(combinations((2, 0, 1), 2)), [(4, 3)]
    apart = [loss_and_gradient("plackett-luce", scores, pairs_of(*p)) for p in (first, second)]
    mixed = pairs_of(first[2], *second, first[0], first[1])
    loss, gradient = loss_and_gradient("plackett-luce", scores, mixed)
    torch.testing.assert_close(loss, apart[0][0] + apart[1][0])
    torch.testing.assert_close(gradient, apart[0][1] + apart[1][1])


def test_what_is_no_full_ranking_by_hand() -> None:
    """Weights (1, 2, 4). Tied last, 2 over {0, 1}: log(7/4). Tied first, {1, 2} over 0: log(3/2) +
    log(5/4). Contradictory, 0 > 1 and 1 > 0: log 3 + log(3/2)."""
    scores = scores_of([0.0, math.log(2), math.log(4)], [0.0, 0.0, 0.0])
    for pairs, loss in (
        (pairs_of((2, 0), (2, 1)), math.log(7 / 4)),
        (pairs_of((1, 0), (2, 0)), math.log(3 / 2) + math.log(5 / 4)),
        (pairs_of((0, 1), (1, 0)), math.log(3) + math.log(3 / 2)),
    ):
        got, _ = loss_and_gradient("plackett-luce", scores, pairs, beta=1.0)
        assert float(got) == pytest.approx(loss, abs=1e-12)


def test_margins_and_weights_by_hand() -> None:
    """rhat 0 for all, 0 over {1, 2} with margins (ln 2, ln 3): log(1 + 2 + 3). Weights 1 and 3
    weigh the choice twice."""
    scores = scores_of([0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    pairs = pairs_of((0, 1), (0, 2), weight=[1.0, 3.0], margin=[math.log(2), math.log(3)])
    loss, _ = loss_and_gradient("plackett-luce", scores, pairs)
    assert float(loss) == pytest.approx(2 * math.log(6), abs=1e-12)


def test_extreme_leads_by_hand() -> None:
    """rhat (1e4, 0, -1e4): 0 the right way round, gradient 0; the wrong way 2e4 + 1e4, and the
    choices press with the whole of their weight."""
    scores = scores_of([1e4, 0.0, -1e4], [0.0, 0.0, 0.0])
    loss, gradient = loss_and_gradient("plackett-luce", scores, ranking(0, 1, 2), beta=1.0)
    assert (float(loss), gradient.tolist()) == (0.0, [0.0, 0.0, 0.0])
    loss, gradient = loss_and_gradient("plackett-luce", scores, ranking(2, 1, 0), beta=1.0)
    assert (float(loss), gradient.tolist()) == (3e4, [2.0, -1.0, -1.0])


def optimum_of_rankings(reward: Tensor, reference: Tensor, beta: float) -> Tensor:
    """The tabular policy (3,) of least expected loss when rankings are drawn from Plackett-Luce
    with rewards `reward`: every order, weighted by its exact probability."""
    truth = Scores(
        pi_logps=reward,
        ref_logps=torch.zeros(3, dtype=torch.float64),
        lengths=torch.ones(3),
        weights=torch.ones(3),
    )
    weighted = []
    for order in permutations(range(3)):
        chance = math.exp(-bind("plackett-luce", beta=1.0)(truth, ranking(*order)).losses.sum())
        weighted.append(ranking(*order, weight=chance))
    logits = reference.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        max_iter=200,
        tolerance_grad=1e-12,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = Scores(
            pi_logps=torch.log_softmax(logits, 0),
            ref_logps=reference.log(),
            lengths=torch.ones(3),
            weights=torch.ones(3),
        )
        loss = bind("plackett-luce", beta=beta)
        total = torch.stack([loss(scores, pairs).losses.sum() for pairs in weighted]).sum()
        total.backward()
        return total

    optimizer.step(closure)
    return torch.softmax(logits.detach(), 0)


def test_rankings_lead_to_the_closed_form_optimum() -> None:
    """Learning from exact Plackett-Luce rankings ends at pi_ref exp(r / beta) / Z (Eq. 4)."""
    reward = torch.tensor([1.5, -0.5, 0.7], dtype=torch.float64)
    reference = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    best = torch.softmax(reference.log() + reward / 0.5, 0)
    learned = optimum_of_rankings(reward, reference, beta=0.5)
    torch.testing.assert_close(learned, best, rtol=0, atol=1e-8)
