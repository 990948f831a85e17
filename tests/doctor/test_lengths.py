"""Distributions and the length-only rule, by hand."""

import numpy as np
import pytest

from redpencil.doctor.numbers.lengths import Distribution, LengthRule, Lengths
from redpencil.doctor.numbers.logistic import FOLDS, fold_of
from redpencil.doctor.view import view
from redpencil.types import Comparison, Origin, Record


def row(prompt, chosen, rejected, number=1):
    return view(
        Record(
            prompt=prompt,
            responses=(chosen, rejected),
            comparisons=(Comparison(chosen=0, rejected=1),),
            origin=Origin("f", number),
        )
    )


def test_quantiles_are_the_smallest_values_that_enough_do_not_exceed():
    lengths = Distribution()
    for value in (7, 1, 3, 3, 10, 2, 2, 2, 9, 4):  # sorted: 1 2 2 2 3 3 4 7 9 10
        lengths.add(value)
    assert lengths.as_json() == {"median": 3, "p95": 10, "max": 10}
    assert lengths.quantile(0.1) == 1
    assert lengths.above(3) == 4
    assert Distribution().as_json() == {}


def test_a_distribution_holds_different_values_not_all():
    lengths = Distribution()
    for number in range(10_000):
        lengths.add(number % 7)
    assert len(lengths._counts) == 7


def test_length_rule_by_hand():
    """Ten rows, two in each fold; the longer one is chosen but in the two of fold 0. Outside fold 0
    the other folds say 6 : 2 "longer", in fold 0 they say 8 : 0: so 8 of 10 are right, and the
    chosen one is longer in 8 of 10."""
    rule = LengthRule()
    for number in range(10):
        fold = number % FOLDS
        assert fold_of(np.uint64(fold)) == fold
        rule.see(fold, [(10, 20)] if fold == 0 else [(20, 10)])
    share, (low, high), rows = rule.accuracy()
    assert (share, rows) == (0.8, 10)
    # Wilson, z = 1.96: centre 0.8 + 0.19208, spread 1.96 sqrt(0.016 + 0.009604), over 1.38416.
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert rule.longer()[0] == 0.8


def test_the_rule_is_learned_for_each_range_of_the_ratio():
    """A little longer loses, much longer wins: no single direction says it, the ranges do."""
    rule = LengthRule()
    for number in range(50):
        rule.see(number, [(100, 95)] if number % 2 else [(50, 100)])
    assert rule.longer()[0] == 0.5
    assert rule.accuracy()[0] == 1.0


def test_equal_lengths_are_undecided_and_a_row_counts_once():
    rule = LengthRule()
    rule.see(0, [(5, 5)])
    rule.see(1, [(9, 3), (9, 3), (3, 9), (3, 9)])
    assert rule.longer() == (0.5, rule.longer()[1], 2)


@pytest.mark.parametrize(("size", "told"), [(100_001, True), (99_999, False)])
def test_a_text_of_another_order_of_magnitude_is_told(size, told):
    """95 % of the prompts have 100 characters: the border is 100,000, not 100 times 100."""
    lengths = Lengths()
    for number in range(30):
        lengths.see(row("x" * (size if number == 7 else 100), "aa", "bb", number))
    found = [f for f in lengths.findings(30) if f.key == "huge-text"]
    assert len(found) == told
    if told:
        assert (found[0].count, [o.row for o in found[0].rows]) == (1, [7])
        assert "prompt of row 7, has 100,001 characters" in found[0].text


def test_long_documents_are_not_told():
    """Half of them are beyond the border in characters; none is far from the others."""
    lengths = Lengths()
    for number in range(30):
        lengths.see(row("x" * (200_000 if number % 2 else 10), "aa", "bb", number))
    assert not [f for f in lengths.findings(30) if f.key == "huge-text"]


def test_the_longest_are_named_first_and_no_more_than_are_listed():
    lengths = Lengths()
    for number in range(1000):
        lengths.see(row("x" * (100_001 + number if number >= 970 else 9), "a", "b", number))
    (found,) = [f for f in lengths.findings(1000) if f.key == "huge-text"]
    assert found.count == 30
    assert [o.row for o in found.rows] == list(range(999, 979, -1))


def test_random_lengths_are_no_finding_and_a_bias_is():
    rng = np.random.default_rng(0)
    fair, biased = Lengths(), Lengths()
    for number in range(600):
        one, other = ("x" * int(n) for n in rng.integers(10, 200, size=2))
        fair.see(row(f"p{number}", one, other))
        longest_first = sorted((one, other), key=len, reverse=True)
        biased.see(row(f"p{number}", *(longest_first if rng.random() < 0.8 else (one, other))))
    assert list(fair.findings(600)) == []
    assert fair.statistics()["length_accuracy"]["interval"][0] < 0.5
    (found,) = biased.findings(600)
    assert found.key == "length-bias"
    assert found.severity == "warning"
    assert "longer one in 9" in found.text  # 0.8 + 0.2 / 2 of the rows
    assert "--loss ipo" in found.advice
