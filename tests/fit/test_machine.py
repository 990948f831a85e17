"""The choice of matrix kernels: remembered for a machine, kept in the recipe, off by its name."""

import json

import pytest
import torch
from torch import nn

from redpencil.fit import machine
from redpencil.fit.machine import prepare_machine
from redpencil.models.kernels import KernelChoice

CPU = torch.device("cpu")
switch = torch.backends.mkldnn.matmul


@pytest.fixture(autouse=True)
def switch_restored():
    before = switch.fp32_precision
    yield
    switch.fp32_precision = before


@pytest.fixture
def probes(monkeypatch):
    """The probe always finds oneDNN faster; what it was asked for is counted."""
    seen = []

    def choose(model):
        seen.append(model)
        return KernelChoice("onednn", "2.00 times as fast")

    monkeypatch.setattr(machine, "choose_kernels", choose)
    return seen


def test_a_choice_is_made_once_for_a_machine_and_shapes(probes, tmp_path, capsys):
    model, other = nn.Linear(8, 8), nn.Linear(8, 9)
    assert prepare_machine(model, CPU, None, tmp_path) == "onednn"
    assert switch.fp32_precision == "bf16"
    assert prepare_machine(model, CPU, None, tmp_path) == "onednn"
    assert probes == [model]
    assert prepare_machine(other, CPU, None, tmp_path) == "onednn"
    assert probes == [model, other]
    assert "2.00 times as fast" in capsys.readouterr().out


def test_what_was_asked_for_is_taken_without_a_probe(probes, tmp_path):
    assert prepare_machine(nn.Linear(8, 8), CPU, "default", tmp_path) == "default"
    assert switch.fp32_precision == "none"
    assert not probes and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rounds", "taken"), [(True, "default"), (False, "onednn")])
def test_onednn_that_was_chosen_elsewhere_is_left_where_it_rounds(
    monkeypatch, capsys, rounds, taken
):
    monkeypatch.setattr(machine, "onednn_rounds", lambda model: (rounds, "error 3e-3 against 4e-7"))
    assert prepare_machine(nn.Linear(8, 8), CPU, "onednn", None) == taken
    assert ("rounds to bfloat16 on this CPU" in capsys.readouterr().out) == rounds


def test_without_a_memory_each_run_probes(probes):
    model = nn.Linear(8, 8)
    for _ in range(2):
        prepare_machine(model, CPU, None, None)
    assert len(probes) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": 3}'])
def test_a_damaged_memory_is_probed_again_and_mended(probes, tmp_path, content):
    model = nn.Linear(8, 8)
    prepare_machine(model, CPU, None, tmp_path)
    (path,) = (tmp_path / "kernels").iterdir()
    path.write_text(content)
    assert prepare_machine(model, CPU, None, tmp_path) == "onednn"
    assert len(probes) == 2
    assert json.loads(path.read_text())["name"] == "onednn"


def test_a_memory_that_cannot_be_written_to_is_done_without(probes, tmp_path):
    (tmp_path / "kernels").write_text("a file where a folder would be")
    assert prepare_machine(nn.Linear(8, 8), CPU, None, tmp_path) == "onednn"


def test_another_device_has_no_such_choice(probes):
    assert prepare_machine(nn.Linear(8, 8), torch.device("cuda"), None, None) == "default"
    assert not probes
