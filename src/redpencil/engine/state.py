"""Checkpoints: everything that the next step depends on, written whole or not at all.

A checkpoint is a folder `step-N` with `weights.safetensors` (trainable parameters),
`optimizer.safetensors`, `random.safetensors` and `state.json`. It is written beside its final name
and renamed, so a folder that carries the name is complete. Nothing is pickled.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from redpencil.data.loader import LoaderState
from redpencil.errors import RunFolderError
from redpencil.optim import load_optimizer_state, optimizer_state


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """Where training stands after `step` updates."""

    step: int = 0
    loader: LoaderState = field(default_factory=LoaderState)
    seconds: float = 0.0
    best_step: int | None = None
    best_loss: float | None = None
    max_tokens: int | None = None
    """Budget of micro-batches since memory ran out; None: it never did, the recipe's counts."""


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name (tied ones once)."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_checkpoint(
    folder: Path, state: TrainState, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Path:
    """Write `folder/step-N`; an existing one of the same step is kept as it is."""
    final = folder / f"step-{state.step}"
    if final.exists():
        _write_json(final / "state.json", asdict(state))
        return final
    scratch = folder / f".step-{state.step}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    parameters = trainable(model)
    tensors, settings = optimizer_state(optimizer, list(parameters))
    _save(scratch / "weights.safetensors", dict(parameters))
    _save(scratch / "optimizer.safetensors", tensors)
    _save(scratch / "random.safetensors", {"torch": torch.get_rng_state()})
    _write_json(scratch / "optimizer.json", settings)
    _write_json(scratch / "state.json", asdict(state))
    for file in scratch.iterdir():
        _to_disk(file)
    os.replace(scratch, final)
    return final


def _to_disk(file: Path) -> None:
    """A rename may reach the disk before the bytes do; after a power cut the folder would be whole
    by name only."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> TrainState:
    """Set model, optimizer and random state from a checkpoint and return where it stands.

    Raises RunFolderError when the checkpoint is damaged or does not fit the model.
    """
    try:
        tensors = load_file(checkpoint / "optimizer.safetensors")
        settings = json.loads((checkpoint / "optimizer.json").read_text(encoding="utf-8"))
        random = load_file(checkpoint / "random.safetensors")["torch"]
        stored = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        load_weights(checkpoint, model)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise RunFolderError(
            f"the checkpoint {checkpoint} is damaged ({error}); remove it to go on from the one "
            "before"
        ) from None
    load_optimizer_state(optimizer, list(trainable(model)), tensors, settings)
    torch.set_rng_state(random)
    return TrainState(**{**stored, "loader": LoaderState(**stored["loader"])})


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Set the trainable parameters from a checkpoint, bit for bit."""
    weights = load_file(checkpoint / "weights.safetensors")
    parameters = trainable(model)
    if weights.keys() != parameters.keys():
        odd = sorted(weights.keys() ^ parameters.keys())
        raise RunFolderError(
            f"{checkpoint} holds other parameters than the model has, for example {odd[0]}; "
            "it was written by a run with another model or other adapters"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step, if there is one."""
    return max(_complete(folder), key=_step_of, default=None)


def prune_checkpoints(folder: Path, *, keep: int, best_step: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    ordered = sorted(_complete(folder), key=_step_of)
    for checkpoint in ordered[:-keep]:
        if _step_of(checkpoint) != best_step:
            shutil.rmtree(checkpoint)


def _complete(folder: Path) -> list[Path]:
    return [p for p in folder.glob("step-*") if (p / "state.json").is_file()]


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, path)


def _write_json(path: Path, content: object) -> None:
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(scratch, path)
