"""What a run asks of its machine before it computes: matrix kernels and an allocator."""

import hashlib
import json
import os
import platform
import uuid
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from redpencil.console import say
from redpencil.models.kernels import (
    KernelChoice,
    Kernels,
    choose_kernels,
    heaviest_shapes,
    keep_freed_memory,
    onednn_rounds,
    use_kernels,
)


def prepare_machine(
    model: nn.Module, device: torch.device, asked: Kernels | None, memory: Path | None
) -> Kernels:
    """Set the process up to compute with `model`, and return the matrix kernels in force.

    asked: None for the faster exact ones. memory: a folder where the choice for this machine and
    these shapes is kept, so that two runs do not differ by the noise of a probe; None: probe.
    """
    if device.type != "cpu":
        return "default"
    keep_freed_memory()
    choice = _asked_for(model, asked) if asked else _remembered(model, memory)
    say(f"kernels   {choice.name} matrix products: {choice.reason}")
    use_kernels(choice.name)
    return choice.name


def _asked_for(model: nn.Module, asked: Kernels) -> KernelChoice:
    """A run may have chosen oneDNN on another CPU than the one it goes on with."""
    if asked == "onednn":
        rounding, errors = onednn_rounds(model)
        if rounding:
            why = f"oneDNN was asked for, but it rounds to bfloat16 on this CPU ({errors})"
            return KernelChoice("default", why)
    return KernelChoice(asked, "asked for")


def _remembered(model: nn.Module, memory: Path | None) -> KernelChoice:
    if memory is None:
        return choose_kernels(model)
    path = memory / "kernels" / f"{_machine_key(model)}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["name"] in get_args(Kernels):
            return KernelChoice(kept["name"], f"{kept['reason']} when first measured here")
        raise ValueError(kept["name"])
    except (OSError, ValueError, KeyError, TypeError):
        choice = choose_kernels(model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{uuid.uuid4().hex}.partial")
        scratch.write_text(json.dumps({"name": choice.name, "reason": choice.reason}))
        os.replace(scratch, path)
    except OSError:  # a folder that cannot be written to: the next run probes again
        pass
    return choice


def _machine_key(model: nn.Module) -> str:
    """What a choice depends on: the CPU, its threads, torch, and the shapes."""
    facts = (_cpu_name(), torch.get_num_threads(), torch.__version__, heaviest_shapes(model))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _cpu_name() -> str:
    """Name and abilities of the CPU; two machines of one name may differ in the latter."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return " ".join(sorted(told))
