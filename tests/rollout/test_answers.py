"""Final answers: what counts as the same."""

import pytest

from redpencil.rollout.answers import same_answer


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("She has 9 left.\n#### 18", "9 * 2 = 18\n#### 18"),
        ("She makes $18 a day.", "#### 18"),
        ("so 1,234.50 dollars", "1234.5"),
        ("the total is 10-5=5", "5"),
        ("It is -5.", "-5"),
        ("it is −5", "-5"),
        ("= 1/2", "0.5"),
        ("thus \\boxed{\\frac{3}{4}}", "3/4"),
        ("\\boxed{1} no, \\boxed{2}", "2"),
        ("about 40%", "40"),
        ("#### 7\nBut 9 would be nice.", "7"),
        ("I think it is\nParis.", "paris"),
        ("\\boxed{\\text{no}}", "\\boxed{\\text{no}}"),
        ("(B)", "(b)"),
        ("1e3", "1000"),
    ],
)
def test_the_same(response, reference):
    assert same_answer(response, reference)


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("72 and then 73", "72"),
        ("#### 71\n72", "72"),
        ("", "72"),
        ("no number", "72"),
        ("version2", "2"),
        ("\\boxed{72", "73"),
        ("London", "Paris"),
        ("", ""),
        ("5.0001", "5"),
        ("1/0 is 1", "0"),
    ],
)
def test_not_the_same(response, reference):
    assert not same_answer(response, reference)
