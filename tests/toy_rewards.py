"""Rewards that tests name as users do, by `module:function`."""


def share_of_e(prompts, responses, rows):
    """Easy to learn: the letter e."""
    return [10 * r.count("e") / max(len(r), 1) for r in responses]


def longer(prompts, responses, rows):
    """Characters of an answer, which must be the last of its dialogue."""
    assert not any("Human" in r for r in responses), responses
    return [float(len(r)) for r in responses]
