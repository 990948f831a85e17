"""The GPU benchmark's own logic, on a CPU: equal inputs, agreement, what does not fit."""

from types import SimpleNamespace

import pytest
import torch
from benchmarks.gpu import HEADER, arguments, main
from benchmarks.gpu_case import BenchmarkError, Case, run
from benchmarks.gpu_heads import compare_heads, heads_table
from benchmarks.gpu_steps import PaddedScore, Way
from benchmarks.needs import matmul_peak, operations
from benchmarks.step import Shape
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu_case, gpu_heads
from redpencil.models.attention import install
from redpencil.models.load import equip
from redpencil.models.lora import add_lora
from redpencil.models.memory import BatchTooLarge
from redpencil.scores.forward import hidden_states
from zoo import tiny_model

CPU = torch.device("cpu")
EXAMPLES = Shape(prompts=5, prompt=9, response=5, responses=3, vocabulary=61).examples()


def test_the_dry_run_writes_the_whole_table(tmp_path, capsys):
    main(["--dry-run", "--heads", "--out", str(tmp_path)])
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    table = [line.split(" | ") for line in page.splitlines() if line.startswith("| tiny ")]
    assert [row[0] for row in table] == ["| tiny lora"] * 6 + ["| tiny full"] * 6
    assert all(len(row) == len(HEADER) for row in table)
    assert "does not fit" not in page
    first_losses = {row[0]: set() for row in table}
    for row in table:
        first_losses[row[0]].add(row[-1])
    assert all(len(losses) == 1 for losses in first_losses.values()), first_losses
    assert "| redpencil, in blocks |" in page
    assert "tiny lora | padded+live+recompute" in capsys.readouterr().out


def test_a_way_that_recomputes_leaves_the_model_as_it_was():
    model = tiny_model("llama")
    equip(model)
    held = [name for name, module in model.named_modules() if "forward" in vars(module)]
    for on in (True, False):
        with gpu_case._recomputing(model, on):
            assert model.is_activation_checkpointing is on
        assert not model.is_activation_checkpointing
        assert [n for n, module in model.named_modules() if "forward" in vars(module)] == held


def test_without_a_gpu_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        arguments([])
    assert stopped.value.code == 2
    assert "--dry-run tries everything on the CPU" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tree", "trees+whole", "padded+fast", "padded+live+live+x"])
def test_a_way_that_means_nothing_is_refused(name, capsys):
    with pytest.raises(ValueError, match="is no way to make a step"):
        Way.named(name)
    with pytest.raises(SystemExit):
        arguments(["--dry-run", "--ways", name])
    assert "is no way to make a step" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["unshared", "padded", "padded+whole"])
def test_all_ways_score_the_same_pairs(name):
    """Chosen and rejected log-probabilities of every comparison, by response index."""
    model = tiny_model("qwen3")
    install(model)

    def of_pairs(way, budget):
        found = {}
        for batch in way.batch(EXAMPLES, budget).micro_batches:
            logps = way.score()(model, batch)
            for chosen, rejected in zip(batch.pairs.chosen, batch.pairs.rejected, strict=True):
                key = tuple(int(batch.response_index[i]) for i in (chosen, rejected))
                found[key] = torch.stack([logps[chosen], logps[rejected]])
        return found

    with torch.no_grad():
        trees, others = of_pairs(Way.named("trees"), 40), of_pairs(Way.named(name), 4 * 12)
    assert len(trees) == 15 and trees.keys() == others.keys()
    for key, logps in trees.items():
        torch.testing.assert_close(others[key], logps, rtol=1e-5, atol=1e-5)


def test_what_each_way_is_fed():
    distinct = sum(len(m.input_ids) for m in Way.named("trees").batch(EXAMPLES, 99).micro_batches)
    unshared = Way.named("unshared").batch(EXAMPLES, 99).micro_batches
    repeated = sum(len(e.prompt_ids) + len(r.ids) - 1 for e in EXAMPLES for r in e.responses)
    assert sum(len(m.input_ids) for m in unshared) == repeated > distinct
    assert all(len(m.input_ids) <= 99 for m in unshared)
    padded = Way.named("padded").batch(EXAMPLES, 4).micro_batches
    assert [len(m.pairs.chosen) for m in padded] == [4, 4, 4, 3]


def case(train="lora", **budgets) -> Case:
    budgets = {"max_tokens": 48, "pairs": 2, **budgets}
    return Case(size="tiny", train=train, device=CPU, **budgets)


def run_ways(names, train="lora"):
    chosen = case(train)
    examples = Shape(prompts=4, prompt=9, response=5, vocabulary=97).examples()
    ways = [Way.named(name) for name in names.split(",")]
    return run(chosen, chosen.model(), ways, [examples[:2], examples[2:]], rounds=2)


def test_a_wrong_way_is_not_timed(monkeypatch):
    """The first loss is far from ln 2 and depends on the forward pass: 1 % too much is seen."""
    real = PaddedScore.__call__
    assert run_ways("trees,padded")[1].timed
    monkeypatch.setattr(PaddedScore, "__call__", lambda *given: 1.01 * real(*given))
    with pytest.raises(BenchmarkError, match=r"the first loss is .* for trees and .* for padded"):
        run_ways("trees,padded")


def test_a_way_that_runs_out_of_memory_halves_its_micro_batches_or_does_not_fit(monkeypatch):
    real = gpu_case.train_step

    most_pairs = 1

    def small_machine(model, optimizer, batch, task, *, max_grad_norm):
        if max(len(m.pairs.chosen) for m in batch.micro_batches) > most_pairs:
            raise BatchTooLarge("CUDA out of memory. Tried to allocate 1 GiB")
        return real(model, optimizer, batch, task, max_grad_norm=max_grad_norm)

    monkeypatch.setattr(gpu_case, "train_step", small_machine)
    trees, padded = run_ways("trees,padded")
    assert len(trees.timed) == len(padded.timed) == 2
    assert padded.budget == 1 and trees.budget < 48
    most_pairs = 0
    trees, padded = run_ways("trees,padded")
    assert not trees.timed and not padded.timed
    assert trees.failure.startswith("CUDA out of memory")


def test_what_does_not_fit_is_a_row_and_no_crash(monkeypatch, tmp_path):
    monkeypatch.setattr(
        Case, "model", lambda self: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA"))
    )
    main(["--dry-run", "--train", "full", "--out", str(tmp_path)])
    assert "| tiny full | all | does not fit | – |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.parametrize("lora", [False, True])
def test_operations_are_those_that_torch_counts(lora):
    """torch counts the layers' products; head (V 61, D 32) and attention (6 layers of 4 heads of
    12) are added by hand. Under adapters the first layer needs no gradient to its inputs, which the
    formula does not except."""
    model = tiny_model("qwen3", num_hidden_layers=6)
    if lora:
        model = add_lora(model, rank=4)
    install(model)
    (batch,) = Way.named("trees").batch(EXAMPLES, 1000).micro_batches
    counter = FlopCounterMode(display=False)
    with counter:
        hidden = hidden_states(model, batch, batch.predicting)
        hidden.index_select(0, batch.predicting.index).sum().backward()
    counted = counter.get_flop_counts()["Global"]
    layers = sum(count for op, count in counted.items() if "attention" not in str(op))
    head = (4 if lora else 6) * 61 * 32 * len(batch.target_ids)
    depth = batch.position_ids + 1
    pairs = 5 * int(depth.sum()) + int(depth[batch.predicting.index].sum())
    attention = 12 * 4 * 12 * pairs
    needed = operations(model, SimpleNamespace(micro_batches=(batch,)))
    assert layers + head + attention == pytest.approx(needed, rel=0.05 if lora else 1e-9)
    assert layers + head + attention <= needed


def test_the_peak_is_a_rate():
    assert matmul_peak(CPU, torch.float32, size=64, rounds=2) > 1e6


def test_heads_are_checked_and_absent_ones_named(monkeypatch):
    monkeypatch.setitem(
        gpu_heads.HEADS, "wrong", (lambda h, w, t: 1.01 * gpu_heads.whole_head(h, w, t), None)
    )
    monkeypatch.setitem(gpu_heads.HEADS, "broken", (lambda h, w, t: h[0, 10**6], None))
    monkeypatch.setitem(gpu_heads.HEADS, "absent", (gpu_heads.cut_head, "no_such_package"))
    results = compare_heads(CPU, torch.float32, tokens=20, width=16, vocabulary=50, rounds=1)
    found = {r.name: r for r in results}
    assert found["redpencil, in blocks"].error < 1e-5
    assert found["wrong"].error == pytest.approx(0.01, rel=0.01)
    assert found["absent"].skipped == "no_such_package is not installed"
    assert found["broken"].skipped.startswith("failed: ")
    assert "| absent | – | – | no_such_package is not installed |" in heads_table(results)
