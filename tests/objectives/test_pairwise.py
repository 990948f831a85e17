"""Objectives over pairs: hand-computed losses, the paper's gradient, extreme values, symmetries."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redpencil.errors import RecipeError
from redpencil.objectives import OBJECTIVES, bind, dpo_loss
from redpencil.types import Outcome, Pairs, Scores

LN2 = math.log(2)
PREFERENCE = sorted(name for name, row in OBJECTIVES.items() if row.of_preferences)


def make_scores(pi: list[float], ref: list[float], lengths: list[int] | None = None) -> Scores:
    return Scores(
        pi_logps=torch.tensor(pi, dtype=torch.float64, requires_grad=True),
        ref_logps=torch.tensor(ref, dtype=torch.float64),
        lengths=torch.tensor(lengths or [1] * len(pi)),
        weights=torch.ones(len(pi)),
    )


def make_pairs(
    chosen: list[int], rejected: list[int], *, weight=1.0, margin=0.0, probability=1.0
) -> Pairs:
    def column(value: float | list[float]) -> Tensor:
        values = value if isinstance(value, list) else [value] * len(chosen)
        return torch.tensor(values, dtype=torch.float64)

    return Pairs(
        chosen=torch.tensor(chosen),
        rejected=torch.tensor(rejected),
        weight=column(weight),
        margin=column(margin),
        probability=column(probability),
    )


def losses_of(outcome: Outcome) -> list[float]:
    return outcome.losses.tolist()


def test_dpo_loss_by_hand() -> None:
    """beta 0.5; pair (0 beats 1): h = (-2 + 5) - (-3 + 4) = 2, beta h = 1,
    loss = -log sigma(1) = log(1 + e^-1) = 0.313261687518.
    Pair (2 beats 1): h = (-6 + 5) - (-5 + 4) = 0, loss = log 2.
    rewards = 0.5 * (pi - ref) = 0.5 * (1, -1, -1)."""
    pi = torch.tensor([-2.0, -5.0, -6.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-3.0, -4.0, -5.0], dtype=torch.float64)
    losses, rewards = dpo_loss(pi, ref, torch.tensor([0, 2]), torch.tensor([1, 1]), 0.5)
    assert losses.tolist() == pytest.approx([0.313261687518, LN2], abs=1e-12)
    assert rewards.tolist() == [0.5, -0.5, -0.5]
    assert losses.requires_grad and not rewards.requires_grad


def test_dpo_of_bare_pairs_is_the_papers_function() -> None:
    torch.manual_seed(0)
    pi, ref = torch.randn(2, 8) * 20
    w, l = torch.tensor([0, 1, 2, 0]), torch.tensor([4, 5, 6, 7])  # noqa: E741
    losses, rewards = dpo_loss(pi, ref, w, l, 0.1)
    scores = Scores(pi_logps=pi, ref_logps=ref, lengths=torch.ones(8), weights=torch.ones(8))
    outcome = bind("dpo", beta=0.1)(scores, make_pairs(w.tolist(), l.tolist()))
    torch.testing.assert_close(outcome.losses, losses.double(), rtol=0, atol=1e-6)
    assert torch.equal(outcome.rewards, rewards)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.49])
def test_step_0_costs_ln_2(label_smoothing: float) -> None:
    """The policy is the reference: h = 0 and both terms are log 2, whatever q."""
    scores = make_scores([-50.5, -1000.25, -3.0], [-50.5, -1000.25, -3.0])
    outcome = bind("dpo", label_smoothing=label_smoothing)(scores, make_pairs([0, 1], [1, 2]))
    assert losses_of(outcome) == pytest.approx([LN2, LN2], abs=1e-15)
    assert outcome.rewards.tolist() == [0, 0, 0]


def test_conservative_dpo_by_hand() -> None:
    """z = 1 * 2 = 2, eps = 0.1: 0.9 log(1 + e^-2) + 0.1 log(1 + e^2)
    = 0.9 * 0.126928011 + 0.1 * 2.126928011 = 0.326928011."""
    scores = make_scores([-1.0, -3.0], [-1.0, -1.0])
    pairs = make_pairs([0], [1])
    smoothed = bind("dpo", beta=1.0, label_smoothing=0.1)(scores, pairs)
    assert losses_of(smoothed) == pytest.approx([0.326928011], abs=1e-9)
    doubtful = make_pairs([0], [1], probability=0.9)
    assert losses_of(bind("dpo", beta=1.0)(scores, doubtful)) == pytest.approx(losses_of(smoothed))


def test_smoothing_and_probability_combine() -> None:
    """p = 0.8, eps = 0.1: q = 0.8 * 0.9 + 0.2 * 0.1 = 0.74."""
    scores = make_scores([-1.0, -3.0], [-1.0, -1.0])
    both = bind("dpo", beta=1.0, label_smoothing=0.1)(scores, make_pairs([0], [1], probability=0.8))
    one = bind("dpo", beta=1.0)(scores, make_pairs([0], [1], probability=0.74))
    assert losses_of(both) == pytest.approx(losses_of(one), abs=1e-12)


def test_margin_is_a_lead_asked_of_the_chosen() -> None:
    """z = 2 - 0.5 = 1.5: log(1 + e^-1.5) = 0.201413278; and with q = 0.75
    0.75 * 0.201413278 + 0.25 * 1.701413278 = 0.576413278."""
    scores = make_scores([-1.0, -3.0], [-1.0, -1.0])
    certain = make_pairs([0], [1], margin=0.5)
    assert losses_of(bind("dpo", beta=1.0)(scores, certain)) == pytest.approx([0.201413278])
    doubtful = make_pairs([0], [1], margin=0.5, probability=0.75)
    assert losses_of(bind("dpo", beta=1.0)(scores, doubtful)) == pytest.approx([0.576413278])


def test_dpo_is_least_at_margin_plus_log_odds() -> None:
    """m = 0.7, q = 0.8, beta = 0.5: beta h = 0.7 + log 4, where the gradient vanishes."""
    h = (0.7 + math.log(4)) / 0.5
    scores = make_scores([h, 0.0], [0.0, 0.0])
    outcome = bind("dpo", beta=0.5)(scores, make_pairs([0], [1], margin=0.7, probability=0.8))
    (gradient,) = torch.autograd.grad(outcome.losses.sum(), scores.pi_logps)
    assert gradient.tolist() == pytest.approx([0, 0], abs=1e-15)


@pytest.mark.parametrize("name", ["dpo", "ipo", "hinge", "unlikelihood"])
def test_weights_multiply_losses_and_gradients(name: str) -> None:
    scores = make_scores([-2.0, -5.0, -6.0], [-3.0, -4.0, -4.0], [2, 3, 4])
    plain = bind(name)(scores, make_pairs([0, 2], [1, 1]))
    weighted = bind(name)(scores, make_pairs([0, 2], [1, 1], weight=[3.0, 0.0]))
    assert losses_of(weighted) == pytest.approx([3 * losses_of(plain)[0], 0.0])
    (a,) = torch.autograd.grad(3 * plain.losses[0], scores.pi_logps, retain_graph=True)
    (b,) = torch.autograd.grad(weighted.losses.sum(), scores.pi_logps)
    torch.testing.assert_close(a, b)


def test_ipo_by_hand() -> None:
    """Averages: pi (-4/2, -9/3) = (-2, -3), ref (-6/2, -6/3) = (-3, -2): h = 1 - (-1) = 2.
    beta 0.25: target 1 / 0.5 = 2, loss 0. beta 0.5: target 1, loss 1.
    With p = 0.75 and beta 0.5: 0.75 * 1 + 0.25 * (2 + 1)^2 = 3."""
    scores = make_scores([-4.0, -9.0], [-6.0, -6.0], [2, 3])
    assert losses_of(bind("ipo", beta=0.25)(scores, make_pairs([0], [1]))) == [0.0]
    assert losses_of(bind("ipo", beta=0.5)(scores, make_pairs([0], [1]))) == [1.0]
    doubtful = make_pairs([0], [1], probability=0.75)
    assert losses_of(bind("ipo", beta=0.5)(scores, doubtful)) == [3.0]
    assert bind("ipo", beta=0.5)(scores, doubtful).rewards.tolist() == [1.0, -1.5]


def test_ipo_is_least_at_2q_minus_1_over_2_beta() -> None:
    """q = 0.75, beta = 0.1: h = 0.5 / 0.2 = 2.5."""
    scores = make_scores([2.5, 0.0], [0.0, 0.0])
    outcome = bind("ipo", beta=0.1, label_smoothing=0.25)(scores, make_pairs([0], [1]))
    (gradient,) = torch.autograd.grad(outcome.losses.sum(), scores.pi_logps)
    assert gradient.tolist() == pytest.approx([0, 0], abs=1e-12)


def test_hinge_by_hand() -> None:
    """beta 0.5, h = 2, 0 and -2: max(0, 1 - 1) = 0, 1, 2; with margin 0.25, 0.25 more."""
    scores = make_scores([2.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    pairs = make_pairs([0, 1, 1], [1, 2, 0])
    assert losses_of(bind("hinge", beta=0.5)(scores, pairs)) == [0.0, 1.0, 2.0]
    asking = make_pairs([0, 1, 1], [1, 2, 0], margin=0.25)
    assert losses_of(bind("hinge", beta=0.5)(scores, asking)) == [0.25, 1.25, 2.25]


def test_unlikelihood_by_hand() -> None:
    """pi (-4, -9, -1), alpha 0.1. Pair 0 > 1: 4 + 0.1 * -9 = 3.1; pair 2 > 0, weight 2:
    2 (1 + 0.1 * -4) = 1.2. Gradient: 0: -1 + 2 * 0.1 = -0.8, 1: 0.1, 2: -2.
    rewards = pi - ref = (2, -3, 0)."""
    scores = make_scores([-4.0, -9.0, -1.0], [-6.0, -6.0, -1.0], [2, 3, 1])
    outcome = bind("unlikelihood", alpha=0.1)(scores, make_pairs([0, 2], [1, 0], weight=[1.0, 2.0]))
    assert losses_of(outcome) == pytest.approx([3.1, 1.2], abs=1e-12)
    assert outcome.rewards.tolist() == [2.0, -3.0, 0.0]
    (gradient,) = torch.autograd.grad(outcome.losses.sum(), scores.pi_logps)
    assert gradient.tolist() == pytest.approx([-0.8, 0.1, -2.0], abs=1e-12)


def test_unlikelihood_needs_no_reference() -> None:
    pi = torch.tensor([-4.0, -9.0])
    alone = Scores(pi_logps=pi, ref_logps=None, lengths=torch.ones(2), weights=torch.ones(2))
    outcome = bind("unlikelihood", alpha=1.0)(alone, make_pairs([0], [1]))
    assert losses_of(outcome) == [-5.0] and outcome.rewards is None


def test_unlikelihood_presses_a_settled_pair_as_hard_as_ever_and_dpo_does_not() -> None:
    """A lead of 100 nats: DPO's gradient is beta sigma(-10) = 4.5e-6, unlikelihood's still alpha;
    and its loss has no least value."""
    scores = make_scores([-1.0, -101.0], [-1.0, -1.0])
    pairs, gradients = make_pairs([0], [1]), {}
    for name, option in (("dpo", {"beta": 0.1}), ("unlikelihood", {"alpha": 0.1})):
        loss = bind(name, **option)(scores, pairs).losses.sum()
        gradients[name] = torch.autograd.grad(loss, scores.pi_logps)[0].tolist()
    assert gradients["unlikelihood"] == [-1.0, 0.1]
    assert gradients["dpo"] == pytest.approx([-4.5398e-6, 4.5398e-6], rel=1e-4)
    worse = make_scores([-1.0, -1e6], [-1.0, -1.0])
    assert losses_of(bind("unlikelihood", alpha=0.1)(worse, pairs)) == pytest.approx([-99_999.0])


def test_gradient_on_log_probabilities_is_the_closed_form() -> None:
    """dL/d pi_logps = -beta sigma(rhat_l - rhat_w) on the chosen, + on the rejected."""
    beta = 0.3
    scores = make_scores([-2.0, -5.0, -6.0, -9.0], [-3.0, -4.0, -1.0, -9.5])
    outcome = bind("dpo", beta=beta)(scores, make_pairs([0, 2], [1, 3]))
    (gradient,) = torch.autograd.grad(outcome.losses.sum(), scores.pi_logps)
    rhat = beta * (scores.pi_logps.detach() - scores.ref_logps)
    push = beta * torch.sigmoid(rhat[[1, 3]] - rhat[[0, 2]])
    expected = torch.stack([-push[0], push[0], -push[1], push[1]])
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=0)


def test_gradient_on_parameters_is_the_papers() -> None:
    """grad L = -beta E[sigma(rhat_l - rhat_w) (grad log pi(y_w) - grad log pi(y_l))], on a policy
    over 5 responses with real parameters: log pi = log_softmax(features @ theta)."""
    beta, generator = 0.2, torch.Generator().manual_seed(3)
    features = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    theta = torch.randn(7, generator=generator, dtype=torch.float64, requires_grad=True)
    ref = torch.log_softmax(torch.randn(5, generator=generator, dtype=torch.float64), 0)
    chosen, rejected = torch.tensor([0, 1, 4]), torch.tensor([2, 3, 0])

    pi = torch.log_softmax(features @ theta, 0)
    losses, rewards = dpo_loss(pi, ref, chosen, rejected, beta)
    (gradient,) = torch.autograd.grad(losses.mean(), theta, retain_graph=True)

    grad_logp = [torch.autograd.grad(logp, theta, retain_graph=True)[0] for logp in pi]
    expected = torch.zeros_like(theta)
    for w, l in zip(chosen.tolist(), rejected.tolist(), strict=True):  # noqa: E741
        weight = torch.sigmoid(rewards[l] - rewards[w])
        expected -= beta * weight * (grad_logp[w] - grad_logp[l]) / 3
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PREFERENCE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_values_are_finite(name: str, dtype: torch.dtype, size: float) -> None:
    pi = torch.tensor([size, -size], dtype=dtype, requires_grad=True)
    scores = Scores(
        pi_logps=pi, ref_logps=-pi.detach(), lengths=torch.tensor([3, 5]), weights=torch.ones(2)
    )
    outcome = bind(name)(scores, make_pairs([0], [1], probability=0.75))
    outcome.losses.sum().backward()
    assert torch.isfinite(outcome.losses).all() and torch.isfinite(pi.grad).all()
    assert torch.isfinite(outcome.rewards).all()


def test_extreme_losses_by_hand() -> None:
    """beta h = 1e4: the loss is 0 the right way round and 1e4 the wrong way, gradient 0 and 1."""
    scores = make_scores([1e4, 0.0], [0.0, 0.0])
    for pairs, loss, slope in (
        (make_pairs([0], [1]), 0.0, 0.0),
        (make_pairs([1], [0]), 1e4, 1.0),
    ):
        outcome = bind("dpo", beta=1.0)(scores, pairs)
        (gradient,) = torch.autograd.grad(outcome.losses.sum(), scores.pi_logps)
        assert losses_of(outcome) == [loss]
        assert gradient.tolist() == [slope, -slope]


@pytest.mark.parametrize("name", PREFERENCE)
@pytest.mark.parametrize("impossible", [0, 1])
def test_impossible_responses_are_not_hidden(name: str, impossible: int) -> None:
    """log pi = -inf is the model's failure; loss or gradient says so, and the engine stops."""
    pi = [-1.0, -1.0]
    pi[impossible] = -math.inf
    scores = make_scores(pi, [-1.0, -1.0])
    outcome = bind(name)(scores, make_pairs([0], [1]))
    shown = torch.cat([outcome.losses.detach(), outcome.rewards])
    assert not torch.isfinite(shown).all()


def test_one_reference_for_each_response() -> None:
    pi, index = torch.zeros(3), torch.tensor([0])
    with pytest.raises(RecipeError, match=r"ref_logps is \(3, 1\), it must be a tensor of shape"):
        dpo_loss(pi, torch.zeros(3, 1), index, index, 0.1)
    alone = Scores(pi_logps=pi, ref_logps=None, lengths=torch.ones(3), weights=torch.ones(3))
    with pytest.raises(AssertionError, match="needs reference"):
        bind("dpo")(alone, make_pairs([0], [1]))


logps = st.lists(st.floats(-300, 0), min_size=4, max_size=4)
betas = st.floats(0.01, 5)


@settings(max_examples=60, deadline=None)
@given(pi=logps, ref=logps, shift=st.floats(-100, 100), other=st.floats(-100, 100), beta=betas)
def test_prompt_constants_cancel(
    pi: list[float], ref: list[float], shift: float, other: float, beta: float
) -> None:
    """log Z(x) and any f(x) drop out [6]: adding a constant per model changes no loss."""
    pairs = make_pairs([0, 1, 2], [3, 2, 0], margin=0.3, probability=0.9)
    plain = bind("dpo", beta=beta)(make_scores(pi, ref), pairs)
    moved = make_scores([x + shift for x in pi], [x + other for x in ref])
    torch.testing.assert_close(
        bind("dpo", beta=beta)(moved, pairs).losses, plain.losses, rtol=1e-9, atol=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(
    pi=logps,
    ref=logps,
    beta=betas,
    margin=st.floats(-2, 2),
    probability=st.floats(0, 1),
    smoothing=st.floats(0, 0.49),
)
def test_a_pair_and_its_mirror_cost_the_same(
    pi: list[float],
    ref: list[float],
    beta: float,
    margin: float,
    probability: float,
    smoothing: float,
) -> None:
    """ "a beats b with probability p, by m" is "b beats a with probability 1 - p, by -m"."""
    loss = bind("dpo", beta=beta, label_smoothing=smoothing)
    scores = make_scores(pi, ref)
    one = loss(scores, make_pairs([0], [1], margin=margin, probability=probability))
    mirror = loss(scores, make_pairs([1], [0], margin=-margin, probability=1 - probability))
    torch.testing.assert_close(one.losses, mirror.losses, rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(pi=logps, ref=logps, beta=betas)
def test_both_orders_differ_by_the_reward_margin(
    pi: list[float], ref: list[float], beta: float
) -> None:
    """-log sigma(-z) + log sigma(z) = z: swapping winner and loser costs rhat_w - rhat_l more."""
    scores = make_scores(pi, ref)
    outcome = bind("dpo", beta=beta)(scores, make_pairs([0, 1], [1, 0]))
    margin = outcome.rewards[0] - outcome.rewards[1]
    torch.testing.assert_close(outcome.losses[1] - outcome.losses[0], margin, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(pi=logps, ref=logps, order=st.permutations(range(4)))
def test_the_order_of_responses_does_not_matter(
    pi: list[float], ref: list[float], order: list[int]
) -> None:
    place = [order.index(i) for i in range(4)]
    shuffled = make_scores([pi[i] for i in order], [ref[i] for i in order])
    for name in ("dpo", "ipo", "hinge", "unlikelihood"):
        a = bind(name)(make_scores(pi, ref), make_pairs([0, 2], [1, 3]))
        b = bind(name)(shuffled, make_pairs([place[0], place[2]], [place[1], place[3]]))
        assert torch.equal(a.losses, b.losses)
