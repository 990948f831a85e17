"""The compiled kernel equals the masked softmax written out, values and gradients."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from redpencil.data.tree import lay_trees
from redpencil.models.layout import Run, TreeLayout
from redpencil.models.native import attention, check, kernel
from redpencil.models.native.attention import compiled_tree_attention
from redpencil.models.tree_attention import choose_path, tree_attention
from redpencil.types import Places
from softmax import assert_equal_with_gradients, projections, visible, written_out
from zoo import example, random_examples

pytestmark = pytest.mark.skipif(check.refusal() is not None, reason=str(check.refusal()))

lengths = st.tuples(st.integers(0, 70), st.lists(st.integers(1, 60), min_size=1, max_size=3))
heads = st.sampled_from([(4, 2, 6), (2, 2, 16), (3, 1, 40), (6, 2, 64), (1, 1, 1)])


def exactly(inputs, mask, scale):
    """In float64, gradients to the float32 inputs."""
    return written_out(*(t.double() for t in inputs), mask, scale).float()


def assert_right(layout, inputs, runs=None, scale=0.3):
    ours = compiled_tree_attention(*inputs, layout.runs if runs is None else runs, scale)
    mask = visible(layout.batch.subtree_end, layout.batch.position_ids, None)
    assert_equal_with_gradients(ours, exactly(inputs, mask, scale), inputs, 2e-5)


def tree_of(prompt, responses):
    return example([5] * prompt, *([6 + i] + [3] * n for i, n in enumerate(responses)))


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@settings(max_examples=60, deadline=None)
@given(st.lists(lengths, min_size=1, max_size=3), heads)
def test_equals_the_masked_softmax_on_any_tree(shapes, of_heads):
    layout = TreeLayout.of(lay_trees([tree_of(*shape) for shape in shapes]))
    h, k, width = of_heads
    inputs = projections(layout.tokens, heads=h, key_heads=k, width=width, dtype=torch.float32)
    assert_right(layout, inputs)


def test_any_number_of_threads(threads):
    """One tree under one key head is a single item, three trees under four are enough for two."""
    for trees, key_heads in ((1, 1), (3, 4)):
        layout = TreeLayout.of(lay_trees([tree_of(90, [30, 7])] * trees))
        inputs = projections(
            layout.tokens, heads=4, key_heads=key_heads, width=32, dtype=torch.float32
        )
        assert_right(layout, inputs)


def test_nothing_depends_on_who_computes_what(monkeypatch):
    monkeypatch.setattr(kernel, "ITEMS_A_THREAD", 0)
    layout = TreeLayout.of(lay_trees([tree_of(n, [60, 40]) for n in (80, 20, 55)]))
    inputs = projections(layout.tokens, heads=4, key_heads=2, width=32, dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        out = compiled_tree_attention(*inputs, layout.runs, None)
        results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_queries_from_the_first_token_that_is_read_on():
    """The others get zeros, and no gradient of their own."""
    batch = lay_trees([tree_of(50, [20, 9]), tree_of(3, [70, 1])])
    index = (torch.arange(len(batch.input_ids)) % 83 >= 52).nonzero()[:, 0]
    layout = TreeLayout.of(batch, Places(index=index, host=index.numpy()))
    queried = torch.zeros(layout.tokens, dtype=torch.bool)
    for run in layout.read_runs:
        queried[run.start : run.end] = True
    assert 0 < queried.sum() < layout.tokens
    inputs = projections(layout.tokens, width=16, dtype=torch.float32)
    mask = visible(batch.subtree_end, batch.position_ids, None)
    ours = compiled_tree_attention(*inputs, layout.read_runs, 0.3)
    theirs = exactly(inputs, mask, 0.3) * queried[:, None]
    assert_equal_with_gradients(ours, theirs, inputs, 2e-5)
    nothing = compiled_tree_attention(*inputs, (), 0.3)
    assert not nothing.any()


def test_scores_far_apart():
    """Shares are 1 and 0 here, and nothing overflows."""
    layout = TreeLayout.of(lay_trees([tree_of(60, [20, 9])]))
    inputs = projections(layout.tokens, width=16, dtype=torch.float32)
    with torch.no_grad():
        inputs[0] *= 100
    mask = visible(layout.batch.subtree_end, layout.batch.position_ids, None)
    ours = compiled_tree_attention(*inputs, layout.runs, 1.0)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, exactly(inputs, mask, 1.0), rtol=1e-4, atol=1e-4)


def test_what_comes_later_changes_no_bit():
    """Whatever lies in unseen keys that are computed along, up to a whole vector of them."""
    layout = TreeLayout.of(lay_trees([tree_of(70, [20])]))
    inputs = projections(layout.tokens, width=16, dtype=torch.float32)
    before = compiled_tree_attention(*inputs, layout.runs, 0.3)
    for at in range(1, layout.tokens):
        changed = [t.detach().clone() for t in inputs]
        for t in changed[1:]:
            t[:, :, at:] = 1e15
        after = compiled_tree_attention(*changed, layout.runs, 0.3)
        assert torch.equal(after[:, :, :at], before[:, :, :at]), at


def test_a_leak_between_siblings_is_seen():
    """The negative control: one key of the first response given to the second."""
    layout = TreeLayout.of(lay_trees([example([3, 4, 5], [6, 7, 8], [9, 10, 11])]))
    inputs = projections(layout.tokens, width=16, dtype=torch.float32)
    first, second = layout.runs
    assert_right(layout, inputs, (first, second))
    with pytest.raises(AssertionError):
        assert_right(layout, inputs, (first, replace(second, above=((0, 4),))))


def test_bfloat16_goes_through_float32():
    layout = TreeLayout.of(lay_trees(random_examples(4, 4)))
    inputs = projections(layout.tokens, dtype=torch.bfloat16)
    out = compiled_tree_attention(*inputs, layout.runs, None)
    exact = compiled_tree_attention(*(t.float() for t in inputs), layout.runs, None)
    assert out.dtype == torch.bfloat16 and torch.equal(out, exact.bfloat16())
    out.float().sum().backward()
    assert inputs[0].grad.dtype == torch.bfloat16


def test_narrower_values():
    layout = TreeLayout.of(lay_trees(random_examples(3, 3)))
    inputs = projections(layout.tokens, width=24, value_width=9, dtype=torch.float32)
    assert_right(layout, inputs)


def test_a_second_order_gradient_is_not_pretended():
    layout = TreeLayout.of(lay_trees([example([3, 4], [5, 6], [7, 8])]))
    inputs = projections(layout.tokens, dtype=torch.float32)
    out = compiled_tree_attention(*inputs, layout.runs, None)
    (grad,) = torch.autograd.grad(out.sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


def test_tensors_without_data():
    """A step is tried on them to see what memory it takes."""
    layout = TreeLayout.of(lay_trees(random_examples(4, 4)))
    real = compiled_tree_attention(*projections(layout.tokens, dtype=torch.float32),
                                   layout.runs, None)  # fmt: skip
    with FakeTensorMode() as mode:
        inputs = [mode.from_tensor(t) for t in projections(layout.tokens, dtype=torch.float32)]
        out = compiled_tree_attention(*inputs, layout.runs, None)
        grads = torch.autograd.grad(out.sum(), inputs)
    assert out.shape == real.shape and out.stride() == real.stride()
    assert [g.shape for g in grads] == [t.shape for t in inputs]


def test_what_it_does_not_do_flash_attention_does(monkeypatch):
    """Windows that bite, soft-caps, float64, paths beyond a core's cache."""
    used = []
    ours = attention.compiled_tree_attention
    monkeypatch.setattr("redpencil.models.tree_attention.compiled_tree_attention",
                        lambda *args: used.append(1) or ours(*args))  # fmt: skip
    layout = TreeLayout.of(lay_trees(random_examples(4, 4)))
    mask = visible(layout.batch.subtree_end, layout.batch.position_ids, None)

    def attends(dtype=torch.float32, mask=mask, softcap=None, **options):
        used.clear()
        inputs = projections(layout.tokens, dtype=dtype)
        out, _ = tree_attention(
            layout, torch.nn.Module(), *inputs, scaling=0.4, softcap=softcap, **options
        )
        theirs = written_out(*(t.double() for t in inputs), mask, 0.4, softcap)
        torch.testing.assert_close(out.transpose(1, 2).double(), theirs, rtol=1e-5, atol=1e-5)
        return bool(used)

    narrow = visible(layout.batch.subtree_end, layout.batch.position_ids, 3)
    assert attends() and attends(sliding_window=1000)
    assert not attends(mask=narrow, sliding_window=3)
    assert not attends(softcap=2.0)
    assert "flash attention by runs, as scores are soft-capped" in layout.ways
    assert "flash attention by runs, as a sliding window bites" in layout.ways
    assert not attends(torch.float64)
    monkeypatch.setattr(attention, "LARGEST_PATH", layout.longest_path * 6 - 1)
    assert not attends()


def test_without_the_kernel_the_reason_is_said(monkeypatch):
    monkeypatch.setattr("redpencil.models.tree_attention.compiled_refusal", lambda: "of the moon")
    query, _, value = projections(5, dtype=torch.float32)
    assert choose_path(query, value) == ("flash", "flash attention by runs, as of the moon")


def test_groups_are_runs_that_share_keys():
    """A run whose own tokens before the first that is read stand above it begins a group, too."""
    runs = (Run(2, 9, ((0, 2),)), Run(9, 12, ((0, 4),)), Run(12, 40, ()), Run(41, 50, ((40, 41),)))
    work = kernel.work_of(runs)
    assert work.groups == [2, 3, 0, 2, 3, 4]  # the dearest first
    assert work.above == [0, 2, 0, 4, 40, 41]
    assert work.runs[:10] == [2, 9, 2, 0, 1, 9, 12, 4, 1, 1]
    assert (work.longest_path, work.queries) == (28, 47)
    assert kernel.Work.of(work.flat()) == work
    empty = kernel.work_of(())
    assert kernel.Work.of(empty.flat()) == empty


@pytest.mark.parametrize("largest", [1e6, 1e10, 1e20])
def test_scores_that_rounding_puts_above_the_largest(largest):
    """Where a score's last bit is worth hundreds, the largest still weighs 1 and no more."""
    layout = TreeLayout.of(lay_trees([tree_of(60, [20, 9])]))
    inputs = projections(layout.tokens, width=16, dtype=torch.float32)
    with torch.no_grad():
        inputs[0] *= largest
    ours = compiled_tree_attention(*inputs, layout.runs, 0.3)
    values = inputs[2].detach()
    assert ours.isfinite().all()
    assert ours.abs().max() <= values.abs().max() * (1 + 1e-6)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_nan_is_seen_by_those_that_look_there(which):
    layout = TreeLayout.of(lay_trees([tree_of(5, [3, 4]), tree_of(6, [2])]))
    inputs = projections(layout.tokens, dtype=torch.float32)
    with torch.no_grad():
        inputs[which][0, :, 5] = torch.nan  # the first token of the first response
    out = compiled_tree_attention(*inputs, layout.runs, None).isnan().all(dim=-1)[0].all(dim=0)
    bad = set(out.nonzero()[:, 0].tolist())
    assert bad >= ({5} if which == 0 else {5, 6, 7})  # it and those after it on its path
    assert bad <= set(range(8)), "another response, another prompt"


def test_the_operations_keep_torchs_rules():
    layout = TreeLayout.of(lay_trees(random_examples(4, 4)))
    q = torch.randn(layout.tokens, 4, 16)
    k, v = torch.randn(2, layout.tokens, 2, 16)
    lse = torch.randn(layout.tokens, 4)
    work, checked = kernel.work_of(layout.runs).flat(), ("test_schema", "test_faketensor")
    torch.library.opcheck(attention._attend, (q, k, v, work, 0.3), test_utils=checked)
    backward = (q, q, k, v, lse, work, 0.3)
    torch.library.opcheck(attention._attend_backward, backward, test_utils=checked)
