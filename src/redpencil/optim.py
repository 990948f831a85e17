"""The update rule: parameter groups, learning-rate schedule, gradient clipping, and their state.

Updates are numbered from 1 to `total_steps`. The rate of update n is a pure function of n, so a
resumed run needs no schedule state.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import AdamW, RMSprop

from redpencil.errors import RecipeError, RunFolderError, did_you_mean

OptimizerName = Literal["adamw", "rmsprop"]
Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """How parameters are updated. RecipeError for values that make no sense.

    weight_decay: decoupled, on matrices only (AdamW). betas: AdamW's averaging of gradient and
    squared gradient, (0.9, 0.999) if None; RMSprop averages the squared gradient with 0.99.
    warmup_steps: updates until the peak rate is reached (paper: 150). max_grad_norm: 0 is off.
    """

    optimizer: OptimizerName = "adamw"
    learning_rate: float
    weight_decay: float = 0.0
    betas: tuple[float, float] | None = None
    eps: float = 1e-8
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        _one_of("optimizer", self.optimizer, get_args(OptimizerName))
        _one_of("schedule", self.schedule, get_args(Schedule))
        _check("learning_rate", self.learning_rate, self.learning_rate > 0, "above 0")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _check("eps", self.eps, self.eps > 0, "above 0")
        _check("warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "at least 0")
        _check("max_grad_norm", self.max_grad_norm, self.max_grad_norm >= 0, "at least 0")
        for beta in self.betas or ():
            _check("betas", beta, 0 <= beta < 1, "at least 0 and below 1")
        if self.optimizer == "rmsprop" and self.betas is not None:
            raise RecipeError("betas do nothing with rmsprop; leave them out or use adamw")
        if self.optimizer == "rmsprop" and self.weight_decay > 0:
            raise RecipeError(
                "weight_decay works with adamw only (RMSprop would rescale it like a gradient); "
                "set it to 0 or use adamw"
            )


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig
) -> torch.optim.Optimizer:
    """An optimizer over the parameters that require a gradient, which it knows by name.

    Decay touches matrices only: shrinking a norm's gain or a bias makes nothing simpler.
    """
    trained = [(name, p) for name, p in named_parameters if p.requires_grad]
    assert trained, "no parameter requires a gradient: nothing to optimize"
    if config.optimizer == "rmsprop":
        return RMSprop(trained, lr=config.learning_rate, alpha=0.99, eps=config.eps)
    matrices = [(name, p) for name, p in trained if p.ndim >= 2]
    others = [(name, p) for name, p in trained if p.ndim < 2]
    groups = [
        {"params": members, "weight_decay": decay}
        for members, decay in ((matrices, config.weight_decay), (others, 0.0))
        if members
    ]
    betas = config.betas or (0.9, 0.999)
    fused = has_fused_update({p.device.type for _, p in trained})
    return AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.eps, fused=fused)


def has_fused_update(devices: Set[str]) -> bool:
    """Whether AdamW updates parameters on these devices by one kernel for many tensors, which is
    elementwise, hence deterministic, and on CUDA never waits for the device."""
    return devices <= {"cpu", "cuda"}


def learning_rate_at(step: int, config: OptimConfig, total_steps: int) -> float:
    """The rate of update number `step` (1 to total_steps).

    Warm-up is linear from 0 (before update 1) to the peak, which update `warmup_steps` has, or
    update 1 without warm-up. A linear or cosine decay would reach 0 at update total_steps + 1, so
    every update has a rate above 0.
    """
    assert 1 <= step <= total_steps, f"update {step} is not in 1 to {total_steps}"
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    peak = max(config.warmup_steps, 1)
    progress = (step - peak) / (total_steps + 1 - peak)
    match config.schedule:
        case "constant":
            return config.learning_rate
        case "linear":
            return config.learning_rate * (1 - progress)
        case "cosine":
            return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The rate of the next update, for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale all gradients so that their joint 2-norm is at most `max_norm` (0 or None: leave them).

    Returns the norm before clipping, 0-d, accumulated in float32 at least, without waiting for the
    device. A non-finite norm spoils the gradients: look at it before the update.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    assert gradients, "no parameter has a gradient: was backward called?"
    home = gradients[0].device
    norms = [
        torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)).to(home)
        for g in gradients
    ]
    total = torch.linalg.vector_norm(torch.stack(norms))
    if max_norm:
        scale = (max_norm / (total + 1e-6)).clamp(max=1.0)  # as torch's own clip_grad_norm_
        for gradient in gradients:
            gradient.mul_(scale.to(gradient.device))
    return total


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as flat tensors ("PARAMETER/exp_avg", live, not copies) and JSON settings.

    names: the parameters that the optimizer must be about, in any order.
    """
    known = _parameters_by_name(optimizer)
    assert set(known) == set(names), sorted(set(known) ^ set(names))
    tensors = {
        f"{name}/{key}": value
        for name in names
        for key, value in optimizer.state.get(known[name], {}).items()
    }
    return tensors, _settings(optimizer)


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    names: Sequence[str],
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
) -> None:
    """Set what `optimizer_state` returned; the next update is bitwise the uninterrupted one.

    The learning rate is taken over, too. Raises RunFolderError if the state was saved by another
    update rule, with other settings, or for other parameters.
    """
    _refuse_other_settings(settings, _settings(optimizer))
    index = {name: i for i, name in enumerate(_parameters_by_name(optimizer))}
    assert set(index) == set(names), sorted(set(index) ^ set(names))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        if name not in index:
            raise RunFolderError(f"the saved optimizer state has {key}, which the model has not")
        state.setdefault(index[name], {})[kind] = value.clone()
    groups = optimizer.state_dict()["param_groups"]
    for group, stored in zip(groups, settings["groups"], strict=True):
        group["lr"] = stored["lr"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _parameters_by_name(optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def _settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    keys = ("lr", "betas", "alpha", "eps", "weight_decay", "param_names")
    groups = [
        {key: _plain(group[key]) for key in keys if key in group}
        for group in optimizer.param_groups
    ]
    return {"optimizer": type(optimizer).__name__.lower(), "groups": groups}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _refuse_other_settings(stored: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if stored["optimizer"] != own["optimizer"]:
        raise RunFolderError(
            f"the checkpoint was written by {stored['optimizer']}, this run uses "
            f"{own['optimizer']}; resume with optimizer: {stored['optimizer']}"
        )
    if len(stored["groups"]) != len(own["groups"]):
        raise RunFolderError("the checkpoint's optimizer was about other parameters")
    for theirs, ours in zip(stored["groups"], own["groups"], strict=True):
        for key in ours.keys() - {"lr"}:
            if theirs.get(key) != ours[key]:
                what = "parameters" if key == "param_names" else f"{key} ({theirs.get(key)})"
                raise RunFolderError(f"the checkpoint's optimizer was built with other {what}")


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise RecipeError(f"unknown {name} {value!r}{did_you_mean(str(value), known)}")


def _check(name: str, value: float, holds: bool, range: str) -> None:
    if not (holds and math.isfinite(value)):
        raise RecipeError(f"{name} must be {range} and finite, got {value!r}")
