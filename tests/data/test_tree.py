"""Trees: every path is found again, every distinct token stands once, the rule separates."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from redpencil.data.group import MAX_GROUPED_RESPONSES, group_by_prompt
from redpencil.data.tree import join_trees, lay_tree, lay_trees
from redpencil.types import Comparison, Example, Origin, Response, TreeBatch

ORIGIN = Origin("memory", 1)


def response(ids, scored=None, weight=1.0):
    ids = np.array(ids, dtype=np.int32)
    mask = np.ones(len(ids), dtype=bool) if scored is None else np.array(scored, dtype=bool)
    return Response(ids=ids, scored=mask, origin=ORIGIN, weight=weight)


def example(prompt, *responses, comparisons=(), key="k"):
    return Example(
        prompt_ids=np.array(prompt, dtype=np.int32),
        responses=tuple(r if isinstance(r, Response) else response(r) for r in responses),
        comparisons=comparisons,
        prompt_key=key,
    )


def test_the_example_of_the_docstring():
    batch = lay_trees([example([10, 11], [12, 13], [12, 14])])
    assert batch.input_ids.tolist() == [10, 11, 12]
    assert batch.position_ids.tolist() == [0, 1, 2]
    assert batch.subtree_end.tolist() == [2, 2, 2]
    assert batch.predecessor.tolist() == [1, 2, 2]
    assert batch.target_ids.tolist() == [12, 13, 14]
    assert batch.path_response.tolist() == [0, 0, 1, 1]
    assert batch.path_token.tolist() == [0, 1, 0, 2]
    assert batch.lengths.tolist() == [2, 2]


def test_last_tokens_are_fed_for_a_reward_model():
    """Responses that part, one that another continues, and one given twice."""
    batch = lay_trees([example([10, 11], [12, 13], [12, 14], [12], [12, 13])], feed_last=True)
    assert batch.input_ids.tolist() == [10, 11, 12, 13, 14]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 3]
    assert batch.subtree_end.tolist() == [4, 4, 4, 3, 4]
    assert batch.last_token.tolist() == [3, 4, 2, 3]
    assert lay_trees([example([1], [2])]).last_token is None


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=5))
def test_every_response_ends_at_its_last_token(responses):
    """The path that a last token sees is the prompt and its response, whoever shares it."""
    laid = [example([7], *responses), example([8, 8], *responses)]
    batch = lay_trees(laid, feed_last=True)
    sees = visible(batch)
    for prompt, (at, ids) in zip(
        [[7]] * len(responses) + [[8, 8]] * len(responses),
        zip(batch.last_token.tolist(), [*responses, *responses], strict=True),
        strict=True,
    ):
        assert batch.input_ids[sees[at]].tolist() == [*prompt, *ids]


def test_two_trees_do_not_see_each_other():
    one = example([1, 2], [3, 4, 5], [6, 7, 8], comparisons=(Comparison(chosen=1, rejected=0),))
    batch = lay_trees([one, one])
    assert batch.pairs.chosen.tolist() == [1, 3]
    assert batch.pairs.rejected.tolist() == [0, 2]
    n = len(batch.input_ids) // 2
    assert not visible(batch)[n:, :n].any()
    assert [s.parent for s in batch.segments] == [-1, 0, 0, -1, 3, 3]


def test_a_response_without_any_token_before_it_loses_its_first_token_only():
    batch = lay_trees([example([], [3, 4], [5, 5, 7], [5])])
    assert batch.lengths.tolist() == [1, 2, 0]
    assert batch.target_ids.tolist() == [4, 5, 7]


def test_masks_that_differ_on_a_shared_token():
    batch = lay_trees(
        [example([1], response([2, 3], [True, True]), response([2, 3], [False, True]))]
    )
    assert batch.target_ids.tolist() == [2, 3]
    assert batch.path_response.tolist() == [0, 0, 1]
    assert batch.path_token.tolist() == [0, 1, 1]


def visible(batch: TreeBatch) -> torch.Tensor:
    n = len(batch.input_ids)
    q, k = torch.arange(n)[:, None], torch.arange(n)[None, :]
    return (k <= q) & (q <= batch.subtree_end[None, :])


ids = st.lists(st.integers(0, 3), max_size=6)
trees = st.tuples(ids, st.lists(ids.filter(bool), min_size=1, max_size=5))


@given(st.lists(trees, min_size=1, max_size=3))
def test_every_path_is_found_again_through_the_rule(shapes):
    examples = [example(prompt, *responses) for prompt, responses in shapes]
    batch = lay_trees(examples)
    sees = visible(batch)
    responses = [(e, r) for e in examples for r in e.responses]
    for b, (e, r) in enumerate(responses):
        path = [*e.prompt_ids.tolist(), *r.ids.tolist()]
        tokens = batch.path_token[batch.path_response == b]
        first_scored = max(1, len(e.prompt_ids))
        assert batch.target_ids[tokens].tolist() == path[first_scored:]
        for depth, token in enumerate(tokens.tolist(), start=first_scored):
            before = batch.predecessor[token]
            context = sees[before].nonzero().flatten()
            assert batch.input_ids[context].tolist() == path[:depth]
            assert batch.position_ids[context].tolist() == list(range(depth))


@given(trees)
def test_every_distinct_token_is_fed_once_and_leaves_never(shape):
    prompt, responses = shape
    tree = lay_tree(example(prompt, *responses))
    prefixes = {
        tuple([*prompt, *r][:end]) for r in responses for end in range(1, len(prompt) + len(r))
    }
    assert tree.tokens == len(prefixes)


@given(trees)
def test_segments_are_the_same_tree(shape):
    prompt, responses = shape
    batch = join_trees([lay_tree(example(prompt, *responses))])
    sees = torch.zeros_like(visible(batch))
    for s in batch.segments:
        own = torch.arange(s.end - s.start)
        sees[s.start : s.end, s.start : s.end] = own[None, :] <= own[:, None]
        above = s.parent
        while above >= 0:
            sees[s.start : s.end, batch.segments[above].start : batch.segments[above].end] = True
            above = batch.segments[above].parent
    assert torch.equal(sees, visible(batch))


def test_rows_with_one_prompt_join_and_keep_their_comparisons():
    pair = (Comparison(chosen=0, rejected=1, weight=2.0, origin=Origin("f", 7)),)
    rows = [example([1], [2], [3], comparisons=pair) for _ in range(3)]
    grouped = group_by_prompt([*rows, example([9], [2], [3], comparisons=pair)])
    assert [len(e.responses) for e in grouped] == [6, 2]
    assert [(c.chosen, c.rejected) for c in grouped[0].comparisons] == [(0, 1), (2, 3), (4, 5)]
    assert grouped[0].comparisons[2].origin == Origin("f", 7)
    assert [e.response_base for e in grouped] == [0, 6]


def test_one_prompt_for_all_rows_still_makes_several_trees():
    grouped = group_by_prompt(example([1], [2], [3]) for _ in range(100))
    assert max(len(e.responses) for e in grouped) == MAX_GROUPED_RESPONSES
    assert sum(len(e.responses) for e in grouped) == 200
