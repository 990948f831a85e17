"""What a function says, and what passes for it."""

import functools

import pytest

from redpencil.models.source import says

BODY = """
x.add_(1)
return x
"""


def same(x):
    """With a docstring."""
    x.add_(  # and a comment
        1
    )
    return x


def more(x):
    x.add_(1)
    x.mul_(2)
    return x


class Module:
    def forward(self, x):
        x.add_(1)
        return x


@functools.wraps(same)
def wrapped(x):
    return 2 * same(x)


def test_the_same_statements():
    assert says(same, BODY)
    assert says(same, "return x", BODY)
    assert says(Module.forward, BODY)


@pytest.mark.parametrize("other", [more, wrapped, len, None, Module, lambda x: x + 1])
def test_what_is_not_known_is_not_taken(other):
    assert not says(other, BODY)
