"""Runs are the rule k <= q <= subtree_end[k], cut into contiguous causal pieces."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from redpencil.data.tree import lay_trees
from redpencil.models.calls import masked_calls
from redpencil.models.layout import Run, TreeLayout
from softmax import visible
from zoo import example

path = st.lists(st.integers(3, 4), max_size=7)
tree = st.tuples(path, st.lists(path, min_size=1, max_size=6))


def laid(*shapes) -> TreeLayout:
    return TreeLayout.of(lay_trees([example(prompt, *responses) for prompt, responses in shapes]))


@given(st.lists(tree, min_size=1, max_size=3))
def test_runs_are_the_rule(shapes):
    layout = laid(*shapes)
    batch = layout.batch
    sees = torch.zeros(layout.tokens, layout.tokens, dtype=torch.bool)
    for run in layout.runs:
        assert run.end > run.start
        own = torch.arange(run.end - run.start)
        sees[run.start : run.end, run.start : run.end] = own[None, :] <= own[:, None]
        for start, end in run.above:
            assert end > start
            sees[run.start : run.end, start:end] = True
    assert torch.equal(sees, visible(batch.subtree_end, batch.position_ids, None))
    assert layout.longest_path == int((batch.position_ids + 1).max() if layout.tokens else 0)


@given(st.lists(tree, min_size=1, max_size=3), st.integers(1, 6))
def test_masked_calls_are_the_rule(shapes, window):
    layout = laid(*shapes)
    batch = layout.batch
    whole = visible(batch.subtree_end, batch.position_ids, window)
    sees = torch.zeros_like(whole)
    for call in masked_calls(layout.runs, window):
        keys = torch.cat([torch.arange(start, end) for start, end in call.keys])
        sees[torch.arange(call.start, call.end)[:, None], keys] = call.mask
    assert torch.equal(sees, whole)


def test_a_response_joins_its_prompt_in_one_run():
    layout = laid(([10, 11], [[12, 13, 14], [12, 15, 16], [17, 18]]))
    #   flat   10 11 12 13 | 15 | 17
    assert layout.runs == (Run(0, 4, ()), Run(4, 5, ((0, 3),)), Run(5, 6, ((0, 2),)))


def test_adjacent_ranges_above_become_one():
    layout = laid(([3], [[4, 5, 6, 6], [4, 7, 8, 8], [4, 7, 9, 9], [5, 5]]))
    #   flat   3 4 5 6 | 7 8 | 9 | 5
    assert layout.runs[1] == Run(4, 6, ((0, 2),))
    assert layout.runs[2] == Run(6, 7, ((0, 2), (4, 5)))


def test_a_window_counts_the_query_itself():
    sees = visible(torch.tensor([3, 3, 3, 3]), torch.arange(4), 2)
    assert sees.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
