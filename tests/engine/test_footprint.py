"""The predicted memory of a step is what a real step holds, byte for byte."""

import copy
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from redpencil.engine.footprint import (
    Shape,
    scoring_footprint,
    synthetic_batch,
    training_footprint,
)
from redpencil.models.attention import enable_activation_checkpointing
from redpencil.models.load import disable_dropout, equip
from redpencil.models.lora import add_lora
from redpencil.models.vocabulary import gradients_in_place
from redpencil.scores.forward import tree_logps
from redpencil.scores.oracle import oracle_logps
from zoo import ARCHITECTURES, tiny_model

BATCH = synthetic_batch(150, Shape(scored=0.6, longest=60))


class Held(TorchDispatchMode):
    """What operations on real tensors hold: counted anew here, by addresses of data."""

    def __init__(self):
        super().__init__()
        self.held, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {t.data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                at = storage.data_ptr()
                if storage.nbytes() and at not in self.held and at not in before:
                    self.held[at] = storage.nbytes()
                    weakref.finalize(storage, self.held.pop, at)
        self.peak = max(self.peak, sum(self.held.values()))
        return out


def trainable_model(name, lora=0, checkpointing=False, device="cpu"):
    model = tiny_model(name)
    equip(model)
    disable_dropout(model)
    model = copy.deepcopy(model).train()
    if device == "meta":
        with torch.device("meta"):
            blank = type(model)(model.config)
        equip(blank)
        disable_dropout(blank)
        model = blank.train()
    if lora:
        model = add_lora(model, rank=lora)
    if checkpointing:
        enable_activation_checkpointing(model)
    return model


def measured_peak(model, score):
    """Peak bytes of one forward and backward, beyond weights and gradients."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    with Held() as held, gradients_in_place():
        score(model, BATCH).sum().backward()
    return held.peak


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_prediction_is_what_a_step_holds(name):
    predicted = training_footprint(
        trainable_model(name, device="meta"), tree_logps, BATCH, states=2
    )
    model = trainable_model(name)
    rest = predicted.activations + predicted.head
    assert rest == pytest.approx(measured_peak(model, tree_logps), rel=0.02)
    trained = sum(p.nbytes for p in model.parameters())
    assert (predicted.gradients, predicted.optimizer) == (trained, 2 * trained)
    assert predicted.weights == trained + sum(b.nbytes for b in model.buffers())


@pytest.mark.parametrize(("lora", "checkpointing"), [(4, False), (0, True), (4, True)])
def test_with_adapters_and_checkpointing(lora, checkpointing):
    predicted = training_footprint(
        trainable_model("llama", lora, checkpointing, "meta"), tree_logps, BATCH, states=2
    )
    model = trainable_model("llama", lora, checkpointing)
    rest = predicted.activations + predicted.head
    assert rest == pytest.approx(measured_peak(model, tree_logps), rel=0.02)
    plain = training_footprint(
        trainable_model("llama", lora, device="meta"), tree_logps, BATCH, states=2
    )
    assert (predicted.activations < 0.5 * plain.activations) == checkpointing


def test_the_oracle_and_the_reference_pass():
    blank = trainable_model("llama", device="meta")
    predicted = training_footprint(blank, oracle_logps, BATCH, states=1)
    rest = predicted.activations + predicted.head
    measured = measured_peak(trainable_model("llama"), oracle_logps)
    assert rest == pytest.approx(measured, rel=0.02)
    weights, passing = scoring_footprint(trainable_model("llama", device="meta"), tree_logps, BATCH)
    assert weights == predicted.weights
    model = trainable_model("llama")
    with torch.no_grad(), Held() as held:
        tree_logps(model, BATCH)
    assert passing == pytest.approx(held.peak, rel=0.02)


def test_a_synthetic_batch_has_the_tokens_asked_for():
    for tokens in (1, 2, 59, 60, 61, 150, 1000):
        for scored in (0.05, 0.6, 1.0, 1.4):
            batch = synthetic_batch(tokens, Shape(scored=scored, longest=60))
            assert len(batch.input_ids) == tokens
            assert int(batch.position_ids.max()) < 60
            if tokens >= 60 and scored >= 0.6:
                assert len(batch.target_ids) == pytest.approx(scored * tokens, rel=0.15)
