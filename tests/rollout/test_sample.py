"""Sampling goes on with fewer prompts at once where memory runs out."""

import numpy as np
import pytest
import torch

from redpencil.errors import MemoryExceeded
from redpencil.rollout import sample as sampling
from zoo import tiny_model

PROMPTS = [np.array([3 + i, 4, 5]) for i in range(7)]


@pytest.mark.parametrize(("fits", "asked"), [(8, [7]), (3, [7, 3, 3, 1]), (1, [7, 3] + [1] * 7)])
def test_out_of_memory_halves_what_is_drawn_at_once(monkeypatch, fits, asked):
    seen, draw = [], sampling._generate

    def generate(model, prompts, *args, **options):
        seen.append(len(prompts))
        if len(prompts) > fits:
            raise torch.OutOfMemoryError("no more")
        return draw(model, prompts, *args, **options)

    monkeypatch.setattr(sampling, "_generate", generate)
    options = {"num": 2, "max_new_tokens": 3, "temperature": 0, "eos_ids": [2], "pad_id": 0}
    found = sampling.sample(tiny_model("llama"), PROMPTS, seed=0, **options)
    assert seen == asked
    monkeypatch.setattr(sampling, "_generate", draw)
    wanted = sampling.sample(tiny_model("llama"), PROMPTS, seed=0, **options)
    for ours, theirs in zip(found, wanted, strict=True):
        assert [o.tolist() for o in ours] == [t.tolist() for t in theirs]


def test_one_prompt_too_many_is_a_sentence(monkeypatch):
    def generate(*_, **__):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(sampling, "_generate", generate)
    with pytest.raises(MemoryExceeded, match="2 completions of up to 3 tokens of one prompt"):
        sampling.sample(
            tiny_model("llama"), PROMPTS, num=2, max_new_tokens=3, temperature=1.0, eos_ids=[2],
            pad_id=0, seed=0,
        )  # fmt: skip
