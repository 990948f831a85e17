"""What is trained must be what is scored: training mode may not compute another function.

Preference training compares log-probabilities of policy and reference, and a run is judged by
what evaluation mode says. Dropout is known and switched off (`disable_dropout`); routers that draw
their experts, noise on what they read, normalisation by the batch and whatever else a model does in
training only are found by scoring a probe in both modes. What differs is held in evaluation mode.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from redpencil.errors import ModelError, in_words
from redpencil.models.configs import ordinary_tokens
from redpencil.models.head import gives_rewards, unwrap
from redpencil.models.load import disable_dropout

APART = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Up to this a log-probability of the probe may differ between the modes, by the weights' dtype:
kernels made for training round otherwise."""
APART_IN_HALF = 0.05
ROWS, LENGTH = 4, 32
"""The probe: 128 tokens, for a router that draws does not draw another expert for each."""
DRAWS = 3


def score_in_training_as_at_rest(model: PreTrainedModel) -> list[str]:
    """Switch off, for good, what makes training mode another function than evaluation mode.

    Returns what was switched off, a sentence each. Raises ModelError where scores are not
    repeatable, or the two modes still differ afterwards.
    """
    said = []
    if places := disable_dropout(model):
        said.append(f"dropout switched off in {places} places: scores must be repeatable")
    try:
        with _untouched(model):
            said += _held(model)
    except ModelError:
        raise
    except Exception as error:  # what only measures stops no run: the model may want other inputs
        if isinstance(error, torch.OutOfMemoryError):
            raise
        why = in_words(error)
        said.append(f"training and evaluation mode could not be compared on a probe ({why})")
    return said


def _held(model: PreTrainedModel) -> list[str]:
    kind = unwrap(model).config.model_type
    probe = _Probe(model)
    if not probe.repeatable:
        raise ModelError(
            f"{kind} scores the same text otherwise each time it is asked (by up to "
            f"{probe.floor:.2g} on a probe, in evaluation mode): it cannot be compared with a "
            "reference"
        )
    everything = list(model.modules())
    whole = probe.seen(everything)
    if not whole.differs and not whole.draws:
        return []
    culprits = _culprits(probe, everything)
    if not culprits and not whole.differs:
        return []
    reached = _reached(model, probe, everything)
    for module in culprits:
        _hold(module)
    rest = [module for module in everything if not _is_held(module)]
    names = ", ".join(sorted({type(m).__name__ for m in culprits})) or "no part by itself"
    left = probe.seen(rest)
    if left.differs:
        raise ModelError(
            f"{kind} computes something else in training than when it is scored (by "
            f"{left.apart:.2g} on a probe; found: {names}), so training it would not move what is "
            "scored"
        )
    if lost := sorted(reached - _reached(model, probe, rest)):
        raise ModelError(
            f"{kind} is another function in training ({names}), and as it is scored {lost[0]} has "
            "no gradient"
        )
    return [f"{names} held in evaluation mode: in training mode scores would be others"]


def _culprits(probe: "_Probe", everything: Sequence[nn.Module]) -> list[nn.Module]:
    """All modules of the classes that by themselves make training mode another function."""
    by_class = defaultdict(list)
    for module in everything:
        by_class[type(module)].append(module)
    found: list[nn.Module] = []
    for kind, modules in by_class.items():
        alone = probe.seen(modules)
        # A draw may show on few texts: where two of a router's experts are near, say. Layers whose
        # draws never showed are left, for layers at rest do not recompute their activations.
        if alone.differs or (alone.draws and not issubclass(kind, GradientCheckpointingLayer)):
            found += modules
    return found


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Inside, in evaluation mode. The mode before comes back, module by module, error or not."""
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True, slots=True)
class _Seen:
    """Some modules in training mode, the others at rest. apart: how far scores lie from those at
    rest. differs: beyond rounding. draws: whether other random numbers are drawn than at rest."""

    apart: float
    differs: bool
    draws: bool


class _Probe:
    """Scores of a few texts, with some of the model's modules in training mode."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._rewards = model, gives_rewards(model)
        config = unwrap(model).config.get_text_config()
        words = ordinary_tokens(config)
        positions = getattr(config, "max_position_embeddings", None) or LENGTH
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(len(words), (ROWS, min(LENGTH, positions)), generator=generator)
        self._ids = torch.tensor(words)[drawn].to(model.device)
        with torch.no_grad():
            self._at_rest = self.scores([], seed=0)
            self._drawn_at_rest = _random_state(self._ids.device)
            again = self.scores([], seed=1)
        apart = APART.get(model.dtype, APART_IN_HALF)
        self.floor = _distance(self._at_rest, again)
        self.repeatable = self.floor <= apart
        self.limit = max(apart, 4 * self.floor)
        if not self._at_rest.isfinite().all():  # NaN of any origin is the loop's to refuse
            self.repeatable, self.limit = True, float("inf")

    def seen(self, training: Collection[nn.Module]) -> _Seen:
        with torch.no_grad():
            apart = _distance(self.scores(training, seed=0), self._at_rest)
            draws = not torch.equal(_random_state(self._ids.device), self._drawn_at_rest)
            for seed in range(1, DRAWS if draws else 1):
                apart = max(apart, _distance(self.scores(training, seed), self._at_rest))
        return _Seen(apart, not apart <= self.limit, draws)

    def scores(self, training: Collection[nn.Module], seed: int) -> Tensor:
        """Log-probabilities of all next tokens, or rewards; flat, at least float32."""
        self._model.eval()
        for module in training:
            module.training = True
        _random_state(self._ids.device, seed)
        options: dict[str, Any] = {} if self._rewards else {"use_cache": False}
        with _same_buffers(self._model):
            rows = [self._row(row, options) for row in self._ids]  # padding is not settled yet
        return torch.cat(rows)

    def _row(self, row: Tensor, options: dict[str, Any]) -> Tensor:
        logits: Tensor = self._model(input_ids=row[None], **options).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self._rewards:
            return logits.flatten()
        return torch.log_softmax(logits[0, :-1], dim=-1).gather(1, row[1:, None])[:, 0]


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinite where one is not finite."""
    return float((a - b).abs().nan_to_num(nan=torch.inf).max())


def _random_state(device: torch.device, seed: int | None = None) -> Tensor:
    """The state of random numbers, the device's own too, after seeding them if there is a seed."""
    if seed is not None:
        torch.manual_seed(seed)
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return torch.cat([torch.get_rng_state(), *own])


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Inside, a model may be run in any mode; its modes and the random numbers come back."""
    modes = {module: module.training for module in model.modules()}
    cuda = [p.device for p in model.parameters() if p.device.type == "cuda"][:1]
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        for module, training in modes.items():
            module.training = training and not _is_held(module)


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """What a model counts and averages while it runs is afterwards as it was."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for inside, name, buffer, before in buffers:
                if inside._buffers[name] is not buffer or not torch.equal(buffer, before):
                    inside._buffers[name] = buffer.copy_(before)


def _hold(module: nn.Module) -> None:
    """In evaluation mode whatever `train` is called with; modules inside it go as they are told."""
    module.training = False
    module.train = MethodType(_train_the_rest, module)  # type: ignore[method-assign]


def _is_held(module: nn.Module) -> bool:
    return getattr(module.train, "__func__", None) is _train_the_rest


def _train_the_rest(module: nn.Module, mode: bool = True) -> nn.Module:
    for child in module.children():
        child.train(mode)
    return module


def _reached(model: nn.Module, probe: _Probe, training: Collection[nn.Module]) -> set[str]:
    """The parameters that a gradient of the probe's scores would reach, by their names without
    numbers: which of a layer's experts are reached is the router's choice."""
    names = {parameter: re.sub(r"\d+", "*", name) for name, parameter in model.named_parameters()}
    with torch.enable_grad():
        scores = probe.scores(training, seed=0)
    seen, todo, found = set(), [scores.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) in names:
            found.add(names[variable])
        todo += [following for following, _ in node.next_functions]
    return found
