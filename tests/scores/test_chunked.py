"""Chunked = whole, forward and backward; memory does not grow with scored tokens x vocabulary."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from redpencil.scores import chunked
from redpencil.scores.chunked import chunked_logps


def whole_logps(hidden, weight, bias, targets, scale, softcap):
    logits = scale * torch.nn.functional.linear(hidden, weight, bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]


def inputs(rows, vocabulary=11, width=5, *, bias=True, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=g, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=g, dtype=dtype, requires_grad=True)
    offset = torch.randn(vocabulary, generator=g, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocabulary, (rows,), generator=g)
    return hidden, weight, offset if bias else None, targets


def value_and_gradients(logps, tensors):
    pull = torch.linspace(-1, 2, len(logps), dtype=logps.dtype)
    return [logps.detach(), *torch.autograd.grad((logps * pull).sum(), tensors)]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, 9),
    chunk=st.integers(1, 120),
    scale=st.sampled_from([1.0, 0.3, 4.0]),
    softcap=st.sampled_from([None, 2.0, 30.0]),
    bias=st.booleans(),
    kept=st.booleans(),
)
def test_chunked_is_whole(rows, chunk, scale, softcap, bias, kept):
    *tensors, targets = inputs(rows, bias=bias)
    options = {"scale": scale, "softcap": softcap}
    given_ = [t for t in tensors if t is not None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "KEPT_ELEMENTS", 1 << 20 if kept else -1)
        ours = chunked_logps(*tensors, targets, **options, chunk_elements=chunk)
        ours = value_and_gradients(ours, given_)
    theirs = value_and_gradients(whole_logps(*tensors, targets, **options), given_)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("kept", [-1, 1 << 20])
def test_gradcheck(monkeypatch, kept, softcap):
    monkeypatch.setattr(chunked, "KEPT_ELEMENTS", kept)
    *tensors, targets = inputs(5)
    assert torch.autograd.gradcheck(
        lambda *t: chunked_logps(*t, targets, scale=0.7, softcap=softcap, chunk_elements=22),
        tensors,
    )


def test_only_what_asks_gets_a_gradient():
    hidden, weight, bias, targets = inputs(6)
    weight.requires_grad_(False)
    bias.requires_grad_(False)
    chunked_logps(hidden, weight, bias, targets, chunk_elements=30).sum().backward()
    assert hidden.grad is not None and weight.grad is None and bias.grad is None


def test_kept_logits_survive_a_second_backward():
    hidden, weight, bias, targets = inputs(6)
    logps = chunked_logps(hidden, weight, bias, targets, softcap=3.0, chunk_elements=30).sum()
    first = torch.autograd.grad(logps, [hidden, weight, bias], retain_graph=True)
    second = torch.autograd.grad(logps, [hidden, weight, bias])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_products_and_float32_softmax(autocast):
    """Of small whole numbers, whose products bfloat16 holds exactly, in whatever order they sum."""
    dtype = torch.float32 if autocast else torch.bfloat16
    *drawn, targets = inputs(40, 50, 16, dtype=dtype)
    hidden, weight, bias = (
        t.detach().sign().mul(1 + (t.detach().abs() > 1)).requires_grad_() for t in drawn
    )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logps = chunked_logps(hidden, weight, bias, targets, chunk_elements=500)
    assert logps.dtype == torch.float32
    rounded = [t.bfloat16() for t in (hidden, weight, bias)]
    logits = torch.nn.functional.linear(*rounded).float()
    expected = torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]
    assert float(logits.detach().abs().max()) < 256  # bfloat16 has 8 bits
    sums_of_50 = 50 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(logps, expected, rtol=sums_of_50, atol=sums_of_50)
    exact = whole_logps(hidden.double(), weight.double(), bias.double(), targets, 1.0, None)
    ours = torch.autograd.grad(logps.sum(), [hidden, weight, bias])
    theirs = torch.autograd.grad(exact.sum(), [hidden, weight, bias])
    for one, two in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        assert (one - two).abs().max() < 0.02 * two.abs().max()


def test_weight_gradients_are_summed_in_float32():
    """2,000 chunks of one row: a bfloat16 running sum would stop growing at 256."""
    hidden = torch.ones(2000, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(2000, dtype=torch.int64)
    chunked_logps(hidden, weight, None, targets, chunk_elements=2).sum().backward()
    assert weight.grad.flatten().tolist() == [1000.0, -1000.0]


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.numel = max([self.numel, *made])
        return out


def test_no_tensor_of_scored_tokens_times_vocabulary(monkeypatch):
    monkeypatch.setattr(chunked, "KEPT_ELEMENTS", 0)
    vocabulary, width, chunk = 200, 4, 2000
    for rows in (100, 1000):
        hidden, weight, bias, targets = inputs(rows, vocabulary, width, dtype=torch.float32)
        with Largest() as seen:
            logps = chunked_logps(
                hidden, weight, bias, targets, scale=0.5, softcap=9.0, chunk_elements=chunk
            )
            logps.sum().backward()
        assert 0 < seen.numel <= max(chunk, rows * width, vocabulary * width)


def peak_bytes(step) -> int:
    """Most bytes that `step` had allocated at once, by the allocator's own trace."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as trace:
        step()
    live = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize("kept", [0, 1 << 25])
def test_peak_memory_does_not_grow_with_scored_tokens_times_vocabulary(monkeypatch, kept):
    monkeypatch.setattr(chunked, "KEPT_ELEMENTS", kept)
    vocabulary, width, chunk = 4000, 4, 40_000
    peaks = {}
    for rows in (100, 400):
        tensors = inputs(rows, vocabulary, width, dtype=torch.float32)
        peaks[rows] = peak_bytes(
            lambda t=tensors: chunked_logps(*t, chunk_elements=chunk).sum().backward()
        )
    grown = peaks[400] - peaks[100]
    if kept:  # the control: the same measure sees the logits when they are kept
        assert grown > 0.9 * 300 * vocabulary * 4
    else:
        assert peaks[100] < 6 * chunk * 4 + 4 * vocabulary * width * 4
        assert grown < 300 * (3 * width + 8) * 8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_log_probabilities_are_float32_at_least(dtype):
    for rows in (0, 3):
        hidden, weight, bias, targets = inputs(rows, dtype=dtype)
        logps = chunked_logps(hidden, weight, bias, targets)
        assert logps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert logps.shape == (rows,)
        logps.sum().backward()
        assert hidden.grad.shape == hidden.shape
        assert weight.grad.any() == bias.grad.any() == (rows > 0)
