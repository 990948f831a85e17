"""The engine on a toy model: micro-batches do not matter, resume is bitwise, NaN stops it."""

import json
import os
import signal

import pytest
import torch
from torch import nn

from redpencil.engine.course import Every
from redpencil.engine.metrics import MetricsLog, read_metrics
from redpencil.engine.state import (
    TrainState,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    trainable,
)
from redpencil.engine.step import train_step
from redpencil.errors import Interrupted, NonFiniteError, RunFolderError
from redpencil.optim import build_optimizer
from redpencil.types import Batch, Measured, Task
from toy import CONFIG, TASK, Bigram, first_batch, measure, run


def gradients(max_tokens):
    model = Bigram()
    batch = first_batch(max_tokens)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    means = train_step(model, optimizer, batch, TASK, max_grad_norm=0.0)
    return len(batch.micro_batches), means, model.table.grad


def test_the_size_of_micro_batches_does_not_matter():
    few, means, grad = gradients(max_tokens=10_000)
    many, other_means, other_grad = gradients(max_tokens=8)
    assert (few, many) == (1, 4)
    torch.testing.assert_close(grad, other_grad, rtol=1e-5, atol=1e-7)
    for name in means:
        torch.testing.assert_close(means[name], other_means[name], rtol=1e-5, atol=1e-6)


def test_the_mean_is_over_the_whole_batch():
    _, means, _ = gradients(max_tokens=8)
    model = Bigram()
    losses = [measure(model, m).losses for m in first_batch(8).micro_batches]
    torch.testing.assert_close(means["loss"], torch.cat(losses).mean().item())


@pytest.mark.parametrize("stop_at", [1, 4, 8])
def test_resumed_is_bitwise_uninterrupted(tmp_path, stop_at):
    whole, _ = run(tmp_path / "whole")

    def save_every_step(model, optimizer):
        def save(state):
            save_checkpoint(tmp_path / "cut" / "checkpoints", state, model, optimizer)
            if state.step == stop_at:
                raise KeyboardInterrupt  # as a kill: nothing after the checkpoint happens
            return state

        return (Every(1, save),)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", hooks=save_every_step)
    model = Bigram()
    with torch.no_grad():
        model.table.zero_()  # whatever it was, the checkpoint sets it
    optimizer = build_optimizer(trainable(model).items(), CONFIG)
    checkpoint = latest_checkpoint(tmp_path / "cut" / "checkpoints")
    state = load_checkpoint(checkpoint, model, optimizer)
    assert state.step == stop_at
    run(tmp_path / "cut", state=state, model=model, optimizer=optimizer)
    assert torch.equal(model.table, whole.table)
    assert torch.equal(model.norm, whole.norm)
    kept = [
        {k: r[k] for k in ("step", "loss", "grad_norm", "epoch")} for r in rows(tmp_path, "cut")
    ]
    full = [
        {k: r[k] for k in ("step", "loss", "grad_norm", "epoch")} for r in rows(tmp_path, "whole")
    ]
    assert kept == full


def rows(tmp_path, name):
    return read_metrics(tmp_path / name / "metrics.jsonl")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_raises(tmp_path, number):
    def kill_at_three(model, optimizer):
        def kill(state):
            os.kill(os.getpid(), number)
            return state

        return (Every(3, kill),)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=number.name):
        run(tmp_path, hooks=kill_at_three)
    assert signal.getsignal(number) is before
    assert latest_checkpoint(tmp_path / "checkpoints").name == "step-3"
    assert Interrupted.exit_code == 130


def test_a_non_finite_loss_stops_before_the_update_and_names_the_rows():
    model = Bigram()
    batch = first_batch(max_tokens=8)
    at_fault = batch.micro_batches[1]

    def poisoned(model, micro):
        measured = measure(model, micro)
        if micro.examples[0] is not at_fault.examples[0]:
            return measured
        return Measured(
            losses=measured.losses * float("nan"), statistics={}, pi_logps=measured.pi_logps
        )

    before = model.table.clone()
    optimizer = build_optimizer(trainable(model).items(), CONFIG)
    with pytest.raises(NonFiniteError, match="the loss became non-finite") as caught:
        train_step(
            model, optimizer, batch, Task(measure=poisoned, unit="comparison"), max_grad_norm=1.0
        )
    assert torch.equal(model.table, before)
    named = {e.responses[0].origin.row for e in at_fault.examples}
    assert str(caught.value).endswith(", ".join(map(str, sorted(named))))
    assert NonFiniteError.exit_code == 3


def test_a_non_finite_gradient_stops_too():
    model = Bigram()
    model.table.register_hook(lambda grad: grad * float("inf"))
    optimizer = build_optimizer(trainable(model).items(), CONFIG)
    with pytest.raises(NonFiniteError, match="the gradient became non-finite"):
        train_step(model, optimizer, first_batch(8), TASK, max_grad_norm=1.0)


def test_a_half_written_checkpoint_is_not_one(tmp_path):
    model = Bigram()
    optimizer = build_optimizer(trainable(model).items(), CONFIG)
    save_checkpoint(tmp_path, TrainState(step=2), model, optimizer)
    (tmp_path / ".step-5.partial").mkdir()
    (tmp_path / ".step-5.partial" / "weights.safetensors").write_bytes(b"half")
    assert latest_checkpoint(tmp_path).name == "step-2"


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    model = Bigram()
    optimizer = build_optimizer(trainable(model).items(), CONFIG)
    for step in (1, 2, 9, 10):
        save_checkpoint(tmp_path, TrainState(step=step), model, optimizer)
    prune_checkpoints(tmp_path, keep=2, best_step=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1", "step-10", "step-9"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    model = Bigram()
    optimizer = build_optimizer(trainable(model).items(), CONFIG)
    checkpoint = save_checkpoint(tmp_path, TrainState(step=1), model, optimizer)
    other = nn.Linear(2, 2)
    with pytest.raises(RunFolderError, match="other parameters"):
        load_checkpoint(checkpoint, other, build_optimizer(other.named_parameters(), CONFIG))


def test_metrics_write_null_for_nan_and_skip_a_half_line(tmp_path):
    with MetricsLog(tmp_path, resumed_at=None) as log:
        log.write(1, {"loss": float("nan"), "grad_norm": 2.0})
    path = tmp_path / "metrics.jsonl"
    assert json.loads(path.read_text()) == {"step": 1, "loss": None, "grad_norm": 2.0}
    path.write_text(path.read_text() + '{"step": 2, "lo')
    assert [r["step"] for r in read_metrics(path)] == [1]


def test_a_batch_counts_all_its_micro_batches():
    batch = first_batch(max_tokens=8)
    assert isinstance(batch, Batch)
    assert batch.count("comparison") == 4
    assert batch.count("response") == 8
    assert batch.count("token") == sum(len(r.ids) for e in batch.examples for r in e.responses)
