import dataclasses

import pytest

from redpencil.world.model import MAX_POSITIONS
from redpencil.world.settings import DemoSettings


def test_settings_are_frozen_and_fit_the_model():
    settings = DemoSettings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.reviews = 1
    longest_prompt = 1 + 2 * 8  # BOS, and eight words with a mark after each
    assert settings.max_new_tokens + longest_prompt <= MAX_POSITIONS
