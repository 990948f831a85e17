import dataclasses

import pytest

from redpencil.world.model import MAX_POSITIONS
from redpencil.world.settings import DemoSettings, FrontierSettings, tiny_frontier


def test_settings_are_frozen_and_fit_the_model():
    settings = DemoSettings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.reviews = 1
    longest_prompt = 1 + 2 * 8  # BOS, and eight words with a mark after each
    assert settings.max_new_tokens + longest_prompt <= MAX_POSITIONS


@pytest.mark.parametrize("settings", [FrontierSettings(), tiny_frontier()])
def test_every_look_of_a_frontier_falls_on_a_step(settings):
    """A look is a checkpoint; in RL it also ends the two passes over a batch of rollouts."""
    for steps in (settings.dpo_steps, settings.unlikelihood_steps, settings.preferred_steps):
        assert steps % settings.looks == 0
    assert settings.rl_steps % (2 * settings.looks) == 0
    assert max(settings.best_of) <= settings.reference_completions
