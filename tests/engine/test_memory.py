"""Running out of memory in a step: the same weights as if cut smaller from the start, or one clear
sentence."""

import re

import pytest
import torch

from redpencil.engine.memory import smaller_budget
from redpencil.engine.state import TrainState, load_checkpoint, save_checkpoint, trainable
from redpencil.engine.step import train_step
from redpencil.errors import MemoryExceeded
from redpencil.models.memory import BatchTooLarge, is_out_of_memory
from redpencil.optim import build_optimizer
from redpencil.types import Batch, Task
from toy import CONFIG, TASK, Bigram, examples, first_batch, measure, run

CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


def limited(tokens, error=None):
    """A task that has memory for so many tokens of a micro-batch, and notes what it was given."""
    seen = []

    def measured(model, batch):
        seen.append(len(batch.input_ids))
        result = measure(model, batch)
        if len(batch.input_ids) > tokens:
            raise error or RuntimeError(CPU_MESSAGE)
        return result

    return Task(measure=measured, unit="comparison"), seen


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(CPU_MESSAGE),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
    ],
)
def test_a_step_cut_smaller_gives_bitwise_the_same_weights(tmp_path, capsys, error):
    task, seen = limited(25, error)
    model, state = run(tmp_path / "whole", task=task, max_tokens=100)
    assert seen[0] > 25  # in the first step, so that no step was cut larger
    smaller, _ = run(tmp_path / "smaller", task=TASK, max_tokens=state.max_tokens)
    assert torch.equal(model.table, smaller.table)
    assert torch.equal(model.norm, smaller.norm)
    said = " ".join(capsys.readouterr().err.split())
    assert f"micro-batches of at most {state.max_tokens} tokens" in said


def test_the_smaller_budget_stays_in_force_and_in_checkpoints(tmp_path):
    task, seen = limited(40)
    model, state = run(tmp_path / "a", task=task, max_tokens=100, total=4)
    assert state.max_tokens is not None
    assert state.max_tokens <= 40
    assert sum(size > 40 for size in seen) == 1  # it ran out once, and never again
    optimizer = build_optimizer(trainable(model).items(), CONFIG)
    model.table.sum().backward()
    optimizer.step()
    saved = save_checkpoint(tmp_path / "checkpoints", state, model, optimizer)
    restored = load_checkpoint(saved, model, optimizer)
    assert restored.max_tokens == state.max_tokens
    task, seen = limited(40)
    run(tmp_path / "b", task=task, max_tokens=100, state=TrainState(max_tokens=state.max_tokens))
    assert max(seen) <= 40


def test_a_tree_that_does_not_fit_is_named(tmp_path):
    task, _ = limited(0)
    with pytest.raises(MemoryExceeded) as caught:
        run(tmp_path, task=task)
    sentence = str(caught.value)
    row = int(re.search(r"pairs\.jsonl, row (\d+)", sentence).group(1))
    example = next(e for e in examples() if e.responses[0].origin.row == row)
    tokens = int(re.search(r"has (\d+) tokens", sentence).group(1))
    paths = len(example.prompt_ids) + sum(len(r.ids) for r in example.responses)
    assert 0 < tokens <= paths - 2  # two leaves are not fed
    assert "--activation-checkpointing on" in sentence
    assert MemoryExceeded.exit_code == 2


def test_other_errors_are_not_taken_for_it(tmp_path):
    task, _ = limited(0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(tmp_path, task=task)
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_budget_halves_from_what_was_tried():
    batch = first_batch(10_000)
    tokens = len(batch.micro_batches[0].input_ids)
    assert smaller_budget(batch, 10_000) == tokens // 2
    assert smaller_budget(batch, tokens - 1) == (tokens - 1) // 2
    with pytest.raises(MemoryExceeded):
        smaller_budget(Batch(first_batch(1).micro_batches), 1)


def test_an_interrupted_step_leaves_no_gradient_behind():
    """The failed half of a step must not be added to the second try."""
    once, again = Bigram(), Bigram()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (once, again)]
    smallest_first = sorted(first_batch(30).micro_batches, key=lambda m: len(m.input_ids))
    sizes = [len(m.input_ids) for m in smallest_first]
    assert sizes[0] < sizes[-1]
    task, _ = limited(sizes[-1] - 1)
    with pytest.raises(BatchTooLarge):
        train_step(once, optimizers[0], Batch(tuple(smallest_first)), task, max_grad_norm=0.0)
    assert once.table.grad is not None
    assert torch.equal(once.table, again.table)
    for model, optimizer in zip((once, again), optimizers, strict=True):
        train_step(model, optimizer, first_batch(8), TASK, max_grad_norm=0.0)
    assert torch.equal(once.table, again.table)
