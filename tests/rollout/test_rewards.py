"""Rewards by name: what is found, and what a wrong one says."""

import sys

import pytest

from redpencil.errors import RewardError
from redpencil.rollout.rewards import find_reward, rate
from redpencil.types import Origin
from redpencil.world.reward import true_reward

MODULE = """
import math
import helper_of_rewards

def length(prompts, responses, rows):
    return [float(len(r)) for r in responses]

def too_few(prompts, responses, rows):
    return [1.0]

def beyond_floats(prompts, responses, rows):
    return [10 ** 5000 for r in responses]

def words(prompts, responses, rows):
    return [r for r in responses]

def nothing(prompts, responses, rows):
    return None

def not_finite(prompts, responses, rows):
    return [math.nan if "bad" in r else 1.0 for r in responses]

def fails(prompts, responses, rows):
    return [1.0 / len(r) for r in responses]

constant = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module of rewards, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (tmp_path / "my_rewards.py").write_text(MODULE)
    (tmp_path / "helper_of_rewards.py").write_text("")
    (tmp_path / "broken_rewards.py").write_text("import not_a_module_at_all\n")
    (tmp_path / "wrong_rewards.py").write_text("def (\n")
    yield
    for name in ("my_rewards", "helper_of_rewards", "broken_rewards", "wrong_rewards"):
        sys.modules.pop(name, None)


def ask(spec, responses=("a", "bad one"), rows=None):
    prompts = ["p"] * len(responses)
    return find_reward(spec)(prompts, list(responses), rows or [{}] * len(responses))


def test_a_function_of_the_current_directory(here):
    assert ask("my_rewards:length") == [1.0, 7.0]


def test_a_function_of_an_installed_module():
    assert ask("redpencil.world.reward:rewards", ["x"]) == [true_reward("px")]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("my_reward:length", ["no Python module 'my_reward'", 'did you mean "my_rewards"?']),
        ("my_rewards:lenght", ["no function 'lenght'", 'did you mean "length"?']),
        ("my_rewards:constant", ["is not a function, it is 3"]),
        ("my_rewards.py:length", ["names a file", "my_rewards:length"]),
        ("my_rewards:", ["not of the form module:function"]),
        ("broken_rewards:f", ["cannot be imported", "not_a_module_at_all"]),
        ("wrong_rewards:f", ["cannot be imported", "SyntaxError"]),
        ("my_rewards:too_few", ["returned 1 numbers for 2 responses"]),
        ("my_rewards:words", ["returned 'a' for the response 'a'", "finite number"]),
        ("my_rewards:nothing", ["returned None instead of a list"]),
        ("my_rewards:not_finite", ["returned nan for the response 'bad one'"]),
        ("my_rewards:beyond_floats", ["returned inf for the response 'a'", "finite number"]),
    ],
)
def test_what_is_wrong_is_one_sentence(here, spec, words):
    with pytest.raises(RewardError) as caught:
        ask(spec)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_a_function_raises_names_the_data_row(here):
    origins = [Origin("prompts.jsonl", 4), Origin("prompts.jsonl", 9)]
    responses = [["good", "fine"], ["", "fine"]]
    with pytest.raises(RewardError) as caught:
        rate(find_reward("my_rewards:fails"), ["p", "q"], responses, [{}, {}], origins)
    assert str(caught.value).startswith("prompts.jsonl, row 9: the reward my_rewards:fails raised")
    assert "ZeroDivisionError" in str(caught.value)


def test_rate_keeps_the_responses_of_a_prompt_together(here, monkeypatch):
    monkeypatch.setattr("redpencil.rollout.rewards.PROMPTS_AT_ONCE", 2)
    done = []
    responses = [["a", "bb"], ["ccc"], ["dddd", "e", ""]]
    origins = [Origin("f", i) for i in range(3)]
    found = rate(
        find_reward("my_rewards:length"), "pqr", responses, [{}] * 3, origins, progress=done.append
    )
    assert found == [[1, 2], [3], [4, 1, 0]]
    assert done == [2, 1]


def test_the_verifier():
    rows = [{"answer": "so\n#### 72"}, {"answer": 5}, {"answer": "Paris"}]
    assert ask("answer", ["#### 72", "it is 6", "paris"], rows) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, ['needs a column "answer"']),
        ({"anwser": "5"}, ['did you mean "anwser"?']),
        ({"answer": None}, ['needs a column "answer"']),
        ({"answer": [1]}, ["must hold a text or a number"]),
    ],
)
def test_the_verifier_without_a_reference(row, words):
    with pytest.raises(RewardError) as caught:
        ask("answer", ["1"], [row])
    for word in words:
        assert word in str(caught.value)
    assert caught.value.index == 0
