"""Checkpoints: everything that the next step depends on, written whole or not at all.

A checkpoint is a folder `step-N` with `weights.safetensors` (trainable parameters),
`optimizer.safetensors`, `random.safetensors` and `state.json`. It is written beside its final name
and renamed, so a folder that carries the name is complete. Nothing is pickled. `state.json` has the
others' checksums and its own: what is read is what was written, or it is not read.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from redpencil.data.loader import LoaderState
from redpencil.errors import RunFolderError
from redpencil.optim import load_optimizer_state, optimizer_state
from redpencil.places import checksums, naming, remove_folder, to_disk, whole_file

WEIGHTS, OPTIMIZER, RANDOM = "weights.safetensors", "optimizer.safetensors", "random.safetensors"
SETTINGS, STATE = "optimizer.json", "state.json"
FILES = (WEIGHTS, OPTIMIZER, RANDOM, SETTINGS)
"""Of which `state.json` has the checksums."""

CHANGED = "its checksum is another than when it was written"


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
    """Write `folder/step-N`; an existing one of the same step is kept as it is, but for its state.

    Raises OSError, and then there is no `step-N` and what was written of it is gone.
    """
    final = folder / f"step-{state.step}"
    if final.exists():
        _write_state(final, state, _read_state(final)[1])
        return final
    scratch = folder / f".step-{state.step}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    with naming(final):
        scratch.mkdir(parents=True)
        try:
            parameters = trainable(model)
            tensors, settings = optimizer_state(optimizer, list(parameters))
            _save(scratch / WEIGHTS, dict(parameters))
            _save(scratch / OPTIMIZER, tensors)
            _save(scratch / RANDOM, {"torch": torch.get_rng_state()})
            with whole_file(scratch / SETTINGS) as file:
                json.dump(settings, file, indent=1)
            _write_state(scratch, state, checksums(scratch, FILES))
            for path in (*scratch.iterdir(), scratch):
                to_disk(path)
            os.replace(scratch, final)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    to_disk(folder)
    return final


def load_checkpoint(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> TrainState:
    """Set model, optimizer and random state from a checkpoint and return where it stands.

    Raises RunFolderError when the checkpoint is damaged or does not fit the model.
    """
    state, sums = _read_state(checkpoint)
    _verify(checkpoint, sums, FILES)
    tensors, random, weights = (_tensors(checkpoint, n) for n in (OPTIMIZER, RANDOM, WEIGHTS))
    settings = _json(checkpoint, SETTINGS)
    _refuse_others(checkpoint, weights, model)
    try:
        load_optimizer_state(optimizer, list(trainable(model)), tensors, settings)
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError):
        raise _damaged(checkpoint / OPTIMIZER, "it is no state of this optimizer") from None
    try:
        torch.set_rng_state(random["torch"])
    except (KeyError, RuntimeError, TypeError):
        raise _damaged(checkpoint / RANDOM, "it is no state of torch's generator") from None
    _set(model, weights)
    return state


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Set the trainable parameters from a checkpoint, bit for bit. Raises RunFolderError."""
    weights = read_weights(checkpoint)
    _refuse_others(checkpoint, weights, model)
    _set(model, weights)


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The parameters that a checkpoint holds, by name. Raises RunFolderError."""
    _verify(checkpoint, _read_state(checkpoint)[1], [WEIGHTS])
    return _tensors(checkpoint, WEIGHTS)


def _refuse_others(checkpoint: Path, weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise RunFolderError where a checkpoint's parameters are not those of the model."""
    parameters = trainable(model)
    odd = sorted(weights.keys() ^ parameters.keys())
    both = weights.keys() & parameters.keys()
    odd += sorted(name for name in both if weights[name].shape != parameters[name].shape)
    if odd:
        raise RunFolderError(
            f"{checkpoint} holds other parameters than the model has, for example {odd[0]}; "
            "it was written by a run with another model or other adapters"
        )


@torch.no_grad()
def _set(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, parameter in trainable(model).items():
        parameter.copy_(weights[name])


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step, if there is one."""
    return max(complete_checkpoints(folder), key=step_of, default=None)


def prune_checkpoints(folder: Path, *, keep: int, best_step: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    ordered = sorted(complete_checkpoints(folder), key=step_of)
    for checkpoint in ordered[:-keep]:
        if step_of(checkpoint) != best_step:
            remove_folder(checkpoint)


def complete_checkpoints(folder: Path) -> list[Path]:
    """In any order. Raises OSError where they cannot be looked at: to go on as if there were none
    would be to begin anew."""
    if not folder.exists():
        return []
    return [p for p in folder.iterdir() if _STEP.fullmatch(p.name)]


_STEP = re.compile(r"step-\d+")


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    with naming(path):
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, path)


def _verify(checkpoint: Path, sums: Mapping[str, str], names: Sequence[str]) -> None:
    """Raise RunFolderError where one of these files is not there, or not as it was written."""
    for name in names:
        with _there(checkpoint / name), (checkpoint / name).open("rb"):
            pass
    for name, found in checksums(checkpoint, [n for n in names if n in sums]).items():
        if found != sums[name]:
            raise _damaged(checkpoint / name, CHANGED)


@contextmanager
def _there(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise _damaged(path, (error.strerror or "").lower()) from None


def _tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    path = checkpoint / name
    with _there(path), path.open("rb"):  # what the system refuses, it says itself
        try:
            return load_file(path)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, str(error)) from None


def _json(checkpoint: Path, name: str) -> dict[str, Any]:
    path = checkpoint / name
    try:
        with _there(path):
            parsed = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise _damaged(path, "it is not a JSON object")
    return parsed


def _write_state(checkpoint: Path, state: TrainState, files: Mapping[str, str]) -> None:
    content = {**asdict(state), "files": dict(files)}
    with whole_file(checkpoint / STATE, durable=True) as file:
        json.dump({**content, "checksum": _own_checksum(content)}, file, indent=1)


def _read_state(checkpoint: Path) -> tuple[TrainState, dict[str, str]]:
    """What `state.json` says, and the checksums of the files beside it, which checkpoints of
    earlier versions lack. Raises RunFolderError."""
    content = _json(checkpoint, STATE)
    own = content.pop("checksum", None)
    if (own is not None or "files" in content) and own != _own_checksum(content):
        raise _damaged(checkpoint / STATE, CHANGED)
    sums = content.pop("files", {})
    return _state(checkpoint, content), sums


def _own_checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _state(checkpoint: Path, stored: Mapping[str, Any]) -> TrainState:
    try:
        state = TrainState(**{**stored, "loader": LoaderState(**stored["loader"])})
    except (KeyError, TypeError):
        raise _damaged(checkpoint / STATE, "it does not say where the run stood") from None
    if not isinstance(state.step, int) or state.step != step_of(checkpoint):
        raise _damaged(checkpoint / STATE, f"it is of step {state.step!r}")
    return state


def _damaged(path: Path, why: str) -> RunFolderError:
    return RunFolderError(
        f"the checkpoint's file {path} is damaged ({why}); remove the folder {path.parent} to go "
        "on from the checkpoint before it, if there is one"
    )
