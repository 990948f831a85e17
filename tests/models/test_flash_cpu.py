"""Flash attention by runs equals the masked softmax written out, values and gradients."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redpencil.data.tree import lay_trees
from redpencil.models.flash_cpu import flash_tree_attention
from redpencil.models.layout import TreeLayout
from redpencil.models.tree_attention import tree_attention
from softmax import assert_equal_with_gradients, projections, visible, written_out
from zoo import example, random_examples

path = st.lists(st.integers(3, 4), max_size=7)
tree = st.tuples(path, st.lists(path, min_size=1, max_size=6)).filter(
    lambda t: any(len(t[0]) + len(r) > 1 for r in t[1])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(tree, min_size=1, max_size=3))
def test_equals_the_masked_softmax_on_any_tree(shapes):
    batch = lay_trees([example(prompt, *responses) for prompt, responses in shapes])
    layout = TreeLayout.of(batch)
    mask = visible(batch.subtree_end, batch.position_ids, None)
    inputs = projections(layout.tokens)
    ours = flash_tree_attention(*inputs, layout.runs, 0.3)
    assert_equal_with_gradients(ours, written_out(*inputs, mask, 0.3), inputs)


def test_gradcheck():
    layout = TreeLayout.of(lay_trees([example([3, 4], [5, 6, 7], [5, 8, 9], [9, 9])]))
    inputs = projections(layout.tokens, heads=2, key_heads=1, width=3)
    assert torch.autograd.gradcheck(
        lambda q, k, v: flash_tree_attention(q, k, v, layout.runs, None), inputs
    )


@pytest.mark.parametrize("window", [None, 1, 3, 5, 100])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_windows_and_caps(window, softcap):
    batch = lay_trees(random_examples(4, 4))
    layout = TreeLayout.of(batch)
    mask = visible(batch.subtree_end, batch.position_ids, window)
    inputs = projections(layout.tokens)
    out, _ = tree_attention(
        layout, torch.nn.Module(), *inputs, scaling=0.4, sliding_window=window, softcap=softcap
    )
    assert out.shape == (1, layout.tokens, 4, 6)
    theirs = written_out(*inputs, mask, 0.4, softcap)
    assert_equal_with_gradients(out.transpose(1, 2), theirs, inputs)


def test_bfloat16_goes_through_float32():
    layout = TreeLayout.of(lay_trees(random_examples(4, 4)))
    inputs = projections(layout.tokens, dtype=torch.bfloat16)
    out = flash_tree_attention(*inputs, layout.runs, None)
    assert out.dtype == torch.bfloat16
    exact = flash_tree_attention(*(t.float() for t in inputs), layout.runs, None)
    assert torch.equal(out, exact.bfloat16())
    out.float().sum().backward()


def test_a_second_order_gradient_is_not_pretended():
    layout = TreeLayout.of(lay_trees([example([3, 4], [5, 6], [7, 8])]))
    inputs = projections(layout.tokens)
    (grad,) = torch.autograd.grad(
        flash_tree_attention(*inputs, layout.runs, None).sum(), inputs[:1], create_graph=True
    )
    with pytest.raises(RuntimeError):
        grad.sum().backward()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(tree, min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from([None, 2.0]),
)
def test_windows_and_caps_equal_the_masked_softmax_on_any_tree(shapes, window, block, softcap):
    batch = lay_trees([example(prompt, *responses) for prompt, responses in shapes])
    layout = TreeLayout.of(batch)
    mask = visible(batch.subtree_end, batch.position_ids, window)
    inputs = projections(layout.tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("redpencil.models.calls.QUERY_BLOCK", block)
        ours = flash_tree_attention(*inputs, layout.runs, 0.3, window, softcap)
        theirs = written_out(*inputs, mask, 0.3, softcap)
        assert_equal_with_gradients(ours, theirs, inputs)


def test_a_cap_without_a_window_and_values_of_another_width():
    batch = lay_trees(random_examples(3, 3))
    layout = TreeLayout.of(batch)
    mask = visible(batch.subtree_end, batch.position_ids, None)
    query, key, value = projections(layout.tokens)
    ours = flash_tree_attention(query, key, value, layout.runs, 0.3, None, 1.5)
    theirs = written_out(query, key, value, mask, 0.3, 1.5)
    assert_equal_with_gradients(ours, theirs, (query, key, value))
    narrow = value.detach()[..., :4].clone().requires_grad_()
    ours = flash_tree_attention(query, key, narrow, layout.runs, 0.3)
    assert ours.shape[-1] == 4
    theirs = written_out(query, key, narrow, mask, 0.3)
    assert_equal_with_gradients(ours, theirs, (query, key, narrow))


def test_a_leak_between_siblings_is_seen():
    """The negative control: one key of the first response given to the second."""
    batch = lay_trees([example([3, 4, 5], [6, 7, 8], [9, 10, 11])])
    layout = TreeLayout.of(batch)
    mask = visible(batch.subtree_end, batch.position_ids, None)
    inputs = projections(layout.tokens)
    first, second = layout.runs
    leaking = replace(second, above=((0, 4),))
    assert second.above == ((0, 3),)
    ours = flash_tree_attention(*inputs, (first, leaking), 0.3)
    with pytest.raises(AssertionError):
        assert_equal_with_gradients(ours, written_out(*inputs, mask, 0.3), inputs)
