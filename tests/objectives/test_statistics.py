"""Statistics of comparisons: sums by hand, ties, and that they add over micro-batches."""

from collections.abc import Callable

import pytest
import torch

from redpencil.errors import RecipeError
from redpencil.objectives import bind, kind_of_rewards, pair_statistics, rewards_of
from redpencil.types import Outcome, Pairs, Scores


def pairs_of(*pairs: tuple[int, int]) -> Pairs:
    chosen, rejected = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    ones = torch.ones(len(pairs))
    return Pairs(chosen=chosen, rejected=rejected, weight=ones, margin=0 * ones, probability=ones)


def scores_of(pi: list[float], ref: list[float]) -> Scores:
    return Scores(
        pi_logps=torch.tensor(pi, requires_grad=True),
        ref_logps=torch.tensor(ref),
        lengths=torch.ones(len(pi), dtype=torch.int64),
        weights=torch.ones(len(pi)),
    )


def measure(scores: Scores, pairs: Pairs) -> dict[str, torch.Tensor]:
    rewards = rewards_of(bind("dpo", beta=0.5), scores, pairs, scale=0.5)
    return pair_statistics(rewards, scores.pi_logps, pairs)


def test_by_hand() -> None:
    """rewards 0.5 * (2, -2, 2) = (1, -1, 1); pairs 0>1 (right), 1>2 (wrong), 0>2 (a tie).
    chosen 1 - 1 + 1 = 1, rejected -1 + 1 + 1 = 1, margins 2 - 2 + 0 = 0, right 1 + 0 + 1/2;
    logps chosen -1 - 5 - 1 = -7, rejected -5 - 4 - 4 = -13."""
    scores = scores_of([-1.0, -5.0, -4.0], [-3.0, -3.0, -6.0])
    sums = measure(scores, pairs_of((0, 1), (1, 2), (0, 2)))
    assert {name: float(total) for name, total in sums.items()} == {
        "rewards/chosen": 1.0,
        "rewards/rejected": 1.0,
        "rewards/margins": 0.0,
        "rewards/accuracies": 1.5,
        "logps/chosen": -7.0,
        "logps/rejected": -13.0,
    }
    assert all(total.shape == () and not total.requires_grad for total in sums.values())


def test_step_0_is_half_right() -> None:
    scores = scores_of([-1.0, -5.0], [-1.0, -5.0])
    assert float(measure(scores, pairs_of((0, 1), (1, 0)))["rewards/accuracies"]) == 1.0


def test_a_lead_below_rounding_is_a_tie() -> None:
    """-1000 in float32 is known to 6e-5: a lead of 1e-4 says nothing there, one of 1 does."""
    scores = scores_of([-1000.0, -1000.0], [-1000.0, -1000.0001])
    assert float(measure(scores, pairs_of((0, 1), (1, 0)))["rewards/accuracies"]) == 1.0
    scores = scores_of([-999.0, -1000.0], [-1000.0, -1000.0])
    assert float(measure(scores, pairs_of((0, 1)))["rewards/accuracies"]) == 1.0


def test_sums_add_over_micro_batches() -> None:
    scores = scores_of([-1.0, -5.0, -4.0, -2.0], [-3.0, -3.5, -6.0, -1.0])
    whole = measure(scores, pairs_of((0, 1), (2, 3), (3, 1)))
    parts = [measure(scores, pairs_of(*p)) for p in ([(0, 1)], [], [(2, 3), (3, 1)])]
    for name, total in whole.items():
        assert float(sum(part[name] for part in parts)) == pytest.approx(float(total))


def own_rewards(rewards) -> Callable[[Scores, Pairs], Outcome]:
    """An objective that returns these rewards of the scores."""
    return lambda scores, pairs: Outcome(losses=scores.pi_logps, rewards=rewards(scores))


def test_an_objective_without_rewards_of_its_own_has_implicit_ones() -> None:
    scores, pairs = scores_of([-1.0, -5.0], [-3.0, -3.0]), pairs_of((0, 1))
    found = rewards_of(own_rewards(lambda s: None), scores, pairs, scale=0.5)
    assert found.values.tolist() == [1.0, -1.0] and not found.values.requires_grad


@pytest.mark.parametrize(
    ("rewards", "right"),
    [
        (lambda s: s.pi_logps / s.lengths, 1.0),  # -3/4 against -2/2: the longer one is better
        (lambda s: s.pi_logps, 0.0),
        (lambda s: -7 * s.pi_logps, 1.0),
        (lambda s: s.pi_logps - s.ref_logps, 0.5),  # a tie within rounding
        (lambda s: (s.pi_logps - s.ref_logps) / s.lengths, 0.5),
        (lambda s: 0 * s.pi_logps, 0.5),
        (lambda s: torch.sigmoid(s.pi_logps / s.lengths), 1.0),
    ],
)
def test_right_and_tied_are_said_of_the_rewards_that_the_objective_returns(rewards, right) -> None:
    scores = Scores(
        pi_logps=torch.tensor([-300.0, -200.0]),
        ref_logps=torch.tensor([-300.0001, -200.0]),
        lengths=torch.tensor([400, 200]),
        weights=torch.ones(2),
    )
    pairs = pairs_of((0, 1))
    found = rewards_of(own_rewards(rewards), scores, pairs, scale=1.0)
    assert float(pair_statistics(found, scores.pi_logps, pairs)["rewards/accuracies"]) == right


def test_what_kind_of_rewards_an_objective_has_is_tried() -> None:
    for loss in ("dpo", "ipo", "hinge", "plackett-luce", "unlikelihood"):
        assert kind_of_rewards(bind(loss)) == "implicit"
    assert kind_of_rewards(own_rewards(lambda s: None)) == "implicit"
    assert kind_of_rewards(own_rewards(lambda s: s.pi_logps / s.lengths)) == "own"
    per_token = own_rewards(lambda s: (s.pi_logps - s.ref_logps) / s.lengths)
    assert kind_of_rewards(per_token) == "relative"


def test_rewards_of_another_shape_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"rewards of shape \(1,\); one for each of the 2"):
        rewards_of(
            own_rewards(lambda s: s.pi_logps[:1]),
            scores_of([-1.0, -5.0], [-3.0, -3.0]),
            pairs_of((0, 1)),
            scale=1.0,
        )
