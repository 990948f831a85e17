"""The update rule: decay groups, schedules, clipping, and a state that continues bitwise."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from redpencil.errors import RecipeError, RunFolderError
from redpencil.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    has_fused_update,
    learning_rate_at,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Matrices and vectors in alternation, so that decay groups change the order."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 33), nn.LayerNorm(33), nn.Tanh(), nn.Linear(33, 5)).to(dtype)


def update(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    inputs = torch.randn(4, 7, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    model(inputs.to(next(model.parameters()).dtype)).square().sum().backward()
    set_learning_rate(optimizer, 0.01 / step)
    optimizer.step()


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, 'did you mean "adamw"'),
        ({"schedule": "cosin"}, 'did you mean "cosine"'),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"eps": 0.0}, "eps must be above 0"),
        ({"betas": (0.9, 1.0)}, "betas must be at least 0 and below 1"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be at least 0"),
        ({"optimizer": "rmsprop", "betas": (0.9, 0.99)}, "betas do nothing with rmsprop"),
        ({"optimizer": "rmsprop", "weight_decay": 0.1}, "weight_decay works with adamw only"),
    ],
)
def test_nonsense_is_refused(options: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        OptimConfig(**{"learning_rate": 1e-3, **options})


def test_rates_by_hand() -> None:
    """Peak 1.2, 2 updates of warm-up, 5 in all: 0.6, then the peak, then 3 updates on the way to
    0 at update 6, a quarter of the way each: linear 3/4, 2/4, 1/4 of the peak; cosine
    (1 + cos(pi k / 4)) / 2 = 0.853553, 0.5, 0.146447 of it."""

    def rates(schedule: str) -> list[float]:
        config = OptimConfig(learning_rate=1.2, warmup_steps=2, schedule=schedule)
        return [learning_rate_at(step, config, 5) for step in range(1, 6)]

    assert rates("constant") == pytest.approx([0.6, 1.2, 1.2, 1.2, 1.2])
    assert rates("linear") == pytest.approx([0.6, 1.2, 0.9, 0.6, 0.3])
    cosine = [0.6, 1.2, 1.2 * 0.8535533906, 0.6, 1.2 * 0.1464466094]
    assert rates("cosine") == pytest.approx(cosine)


def test_the_papers_warm_up() -> None:
    config = OptimConfig(learning_rate=1e-6, warmup_steps=150)
    assert learning_rate_at(1, config, 1000) == pytest.approx(1e-6 / 150)
    assert learning_rate_at(75, config, 1000) == pytest.approx(0.5e-6)
    assert learning_rate_at(150, config, 1000) == 1e-6
    assert learning_rate_at(1000, config, 1000) == 1e-6


@given(
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    warmup_steps=st.integers(0, 30),
    total_steps=st.integers(1, 60),
)
def test_rates_rise_then_fall_and_are_never_zero(
    schedule: str, warmup_steps: int, total_steps: int
) -> None:
    config = OptimConfig(learning_rate=0.5, warmup_steps=warmup_steps, schedule=schedule)
    rates = [learning_rate_at(step, config, total_steps) for step in range(1, total_steps + 1)]
    peak = max(warmup_steps, 1)
    assert all(0 < rate <= 0.5 for rate in rates)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak - 1 :] == sorted(rates[peak - 1 :], reverse=True)
    if total_steps >= peak:
        assert rates[peak - 1] == 0.5


@pytest.mark.parametrize("step", [0, 11])
def test_there_is_no_update_outside_the_run(step: int) -> None:
    with pytest.raises(AssertionError, match="not in 1 to 10"):
        learning_rate_at(step, OptimConfig(learning_rate=1.0), 10)


def test_decay_touches_matrices_only() -> None:
    """Zero gradients leave only the decay: matrices shrink by 1 - 0.1 * 0.5, vectors stay."""
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = OptimConfig(learning_rate=0.1, weight_decay=0.5)
    optimizer = build_optimizer(model.named_parameters(), config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = build_optimizer(model.named_parameters(), OptimConfig(learning_rate=0.1))
    tensors, settings = optimizer_state(optimizer, [n for n in names_of(model) if n != "0.weight"])
    assert tensors == {}
    assert "0.weight" not in sum((g["param_names"] for g in settings["groups"]), [])


def test_adamw_first_update_by_hand() -> None:
    """Bias-corrected, the first step is lr * g / (|g| + eps): 1 - 0.1 * 4 / 4 = 0.9."""
    parameter = nn.Parameter(torch.tensor([1.0]))
    parameter.grad = torch.tensor([4.0])
    build_optimizer([("w", parameter)], OptimConfig(learning_rate=0.1)).step()
    assert parameter.item() == pytest.approx(0.9, abs=1e-6)


def test_rmsprop_first_update_by_hand() -> None:
    """square_avg = 0.01 * 4^2 = 0.16, its root 0.4: 1 - 0.1 * 4 / 0.4 = 0."""
    parameter = nn.Parameter(torch.tensor([1.0]))
    parameter.grad = torch.tensor([4.0])
    config = OptimConfig(optimizer="rmsprop", learning_rate=0.1)
    build_optimizer([("w", parameter)], config).step()
    assert parameter.item() == pytest.approx(0.0, abs=1e-6)


def test_clipping_by_hand() -> None:
    """Gradients (3, 0) and 4: joint norm 5; clipped to 1 they are (0.6, 0) and 0.8."""
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    untouched = nn.Parameter(torch.zeros(3))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    for no_clipping in (0.0, None, 10.0):
        assert clip_gradients(iter([a, b, untouched]), no_clipping).item() == pytest.approx(5.0)
        assert a.grad.tolist() == [3.0, 0.0]
    norm = clip_gradients(iter([a, b, untouched]), 1.0)
    assert norm.shape == () and norm.item() == pytest.approx(5.0)
    assert a.grad.tolist() == pytest.approx([0.6, 0.0], abs=1e-6)
    assert b.grad.tolist() == pytest.approx([0.8], abs=1e-6)
    assert clip_gradients([a, b], 1.0).item() == pytest.approx(1.0, abs=1e-6)


def test_clipping_equals_torchs() -> None:
    ours, theirs = network(), network()
    for model in (ours, theirs):
        model(torch.ones(2, 7)).square().sum().backward()
    norm = clip_gradients(ours.parameters(), 0.25)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), 0.25)
    torch.testing.assert_close(norm, expected)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_norm_of_bfloat16_gradients_is_float32() -> None:
    """10,000 ones have norm 100 and one more makes 100.005, which bfloat16 cannot tell apart."""
    parameter = nn.Parameter(torch.zeros(10_001, dtype=torch.bfloat16))
    parameter.grad = torch.ones_like(parameter)
    norm = clip_gradients([parameter], 0.0)
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(10_001**0.5, rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gradient_shows_in_the_norm(bad: float) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, bad])
    assert not torch.isfinite(clip_gradients([parameter], 1.0))


def test_the_update_is_fused_where_there_is_a_kernel() -> None:
    optimizer = build_optimizer(network().named_parameters(), OptimConfig(learning_rate=0.01))
    assert optimizer.defaults["fused"] is True
    assert has_fused_update({"cuda"}) and has_fused_update({"cuda", "cpu"})
    assert not has_fused_update({"mps"}) and not has_fused_update({"cuda", "meta"})
    on_meta = build_optimizer(
        network().to("meta").named_parameters(), OptimConfig(learning_rate=0.01)
    )
    assert on_meta.defaults["fused"] is False


CONFIGS = [
    OptimConfig(learning_rate=0.01),
    OptimConfig(learning_rate=0.01, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6),
    OptimConfig(optimizer="rmsprop", learning_rate=0.01),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_continues_bitwise(config: OptimConfig, dtype: torch.dtype) -> None:
    """Six updates at once, and three, through safetensors and JSON bytes, and three more."""
    straight = network(dtype=dtype)
    optimizer = build_optimizer(straight.named_parameters(), config)
    for step in range(1, 4):
        update(straight, optimizer, step)
    tensors, settings = optimizer_state(optimizer, names_of(straight))
    stored = save({k: v.contiguous() for k, v in tensors.items()}), json.dumps(settings)
    resumed = network(seed=1, dtype=dtype)
    resumed.load_state_dict(straight.state_dict())
    for step in range(4, 7):
        update(straight, optimizer, step)

    again = build_optimizer(resumed.named_parameters(), config)
    load_optimizer_state(again, names_of(resumed), load(stored[0]), json.loads(stored[1]))
    for step in range(4, 7):
        update(resumed, again, step)

    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
    ours, theirs = (optimizer_state(o, names_of(straight)) for o in (again, optimizer))
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(ours[0][k], theirs[0][k]) for k in ours[0])


def test_loaded_state_is_a_copy() -> None:
    model = network()
    optimizer = build_optimizer(model.named_parameters(), OptimConfig(learning_rate=0.01))
    update(model, optimizer, 1)
    tensors, settings = optimizer_state(optimizer, names_of(model))
    other = build_optimizer(network().named_parameters(), OptimConfig(learning_rate=0.01))
    load_optimizer_state(other, names_of(model), tensors, settings)
    before = {k: v.clone() for k, v in optimizer_state(other, names_of(model))[0].items()}
    update(model, optimizer, 2)
    after = optimizer_state(other, names_of(model))[0]
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_the_learning_rate_is_taken_over() -> None:
    model = network()
    optimizer = build_optimizer(model.named_parameters(), OptimConfig(learning_rate=0.01))
    set_learning_rate(optimizer, 0.125)
    saved = optimizer_state(optimizer, names_of(model))
    other = build_optimizer(model.named_parameters(), OptimConfig(learning_rate=0.01))
    load_optimizer_state(other, names_of(model), *saved)
    assert [g["lr"] for g in other.param_groups] == [0.125, 0.125]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (OptimConfig(optimizer="rmsprop", learning_rate=0.01), "written by adamw"),
        (OptimConfig(learning_rate=0.01, weight_decay=0.1), r"other weight_decay \(0.0\)"),
        (OptimConfig(learning_rate=0.01, betas=(0.5, 0.5)), r"other betas"),
    ],
)
def test_another_rules_state_is_refused(other: OptimConfig, message: str) -> None:
    model = network()
    optimizer = build_optimizer(model.named_parameters(), OptimConfig(learning_rate=0.01))
    update(model, optimizer, 1)
    saved = optimizer_state(optimizer, names_of(model))
    with pytest.raises(RunFolderError, match=message):
        load_optimizer_state(
            build_optimizer(model.named_parameters(), other), names_of(model), *saved
        )


def test_another_models_state_is_refused() -> None:
    model = network()
    optimizer = build_optimizer(model.named_parameters(), OptimConfig(learning_rate=0.01))
    saved = optimizer_state(optimizer, names_of(model))
    renamed = [(f"other.{name}", p) for name, p in model.named_parameters()]
    other = build_optimizer(renamed, OptimConfig(learning_rate=0.01))
    with pytest.raises(RunFolderError, match="other parameters"):
        load_optimizer_state(other, [name for name, _ in renamed], *saved)
