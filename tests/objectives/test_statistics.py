"""Statistics of comparisons: sums by hand, ties, and that they add over micro-batches."""

import pytest
import torch

from redpencil.objectives import bind, pair_statistics
from redpencil.types import Pairs, Scores


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
    return pair_statistics(bind("dpo", beta=0.5)(scores, pairs), scores, pairs)


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


def test_no_rewards_no_statistics() -> None:
    scores = scores_of([-1.0, -5.0], [-1.0, -5.0])
    pairs = pairs_of((0, 1))
    assert pair_statistics(bind("sft")(scores, pairs), scores, pairs) == {}
