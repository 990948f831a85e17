"""Micro-batches on real pairs are as full as they can be."""

import pytest
from benchmarks.filling import BUDGETS, PROMPTS, one_pass, real_examples, steps


@pytest.fixture(scope="module")
def examples(shared_data):
    return real_examples(shared_data)


def percent(words):
    return float(words.rstrip("%"))


@pytest.mark.parametrize("budget", BUDGETS)
def test_one_pass_fills_them(examples, budget):
    assert percent(one_pass(examples, budget)[2]) > 97


@pytest.mark.parametrize("prompts", PROMPTS)
def test_a_step_has_as_few_as_hold_it(examples, prompts):
    """What an optimizer step's last one leaves empty is spread over all, evenly."""
    _, _, filled, more, uneven = steps(examples, BUDGETS[0], prompts)
    assert percent(more.split()[1]) <= 5
    assert float(uneven) < 1.1
    if prompts >= 256:
        assert percent(filled) >= 97
