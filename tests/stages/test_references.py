"""Where a run's reference comes from, and that its weights are gone before training begins."""

import gc
import shutil
import weakref

import numpy as np
import pytest
import torch

import redpencil as rp
from redpencil.models.load import load_model
from redpencil.scores.divergence import tree_distributions
from redpencil.scores.forward import path_logps
from redpencil.stages.references import References
from tiny_runs import recipe


@pytest.fixture
def loaded(monkeypatch):
    """Weak references to the first parameter of each reference that is loaded, by its storage, and
    no garbage collector: what stays only by circles stays."""
    held = []

    def spy(*args, **kwargs):
        model = load_model(*args, **kwargs)
        held.append(weakref.ref(next(model.parameters()).untyped_storage()))
        return model

    monkeypatch.setattr("redpencil.stages.references.load_model", spy)
    gc.disable()
    yield held
    gc.enable()


def test_a_live_reference_is_freed_at_once(base, loaded):
    policy = load_model(str(base), dtype=torch.float32, device=torch.device("cpu"))
    nothing = np.zeros(0, dtype=np.float32)
    references = References(
        train=nothing, evaluation=nothing, token_score=path_logps,
        distributions=tree_distributions, path=str(base), trust_remote_code=False,
    )  # fmt: skip
    for live in (references.live_distributions, references.live_tokens):
        with live(policy):
            assert loaded[-1]() is not None
        assert loaded[-1]() is None
    with pytest.raises(KeyboardInterrupt), references.live_tokens(policy):
        raise KeyboardInterrupt
    assert [storage() for storage in loaded] == [None] * 3
    assert next(policy.parameters()).device.type == "cpu"


def test_another_reference_is_freed_before_training(base, pairs, tmp_path, loaded, monkeypatch):
    from redpencil.stages import wiring

    gone = []
    task = wiring.preference_task

    def spy(*args, **kwargs):
        gone.append([storage() is None for storage in loaded])
        return task(*args, **kwargs)

    monkeypatch.setattr(wiring, "preference_task", spy)
    other = shutil.copytree(base, tmp_path / "other")
    rp.train(recipe(base, pairs, tmp_path / "run", reference=str(other), max_steps=1))
    assert gone[0] == [True]
