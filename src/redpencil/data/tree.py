"""Trees of tokens: examples laid flat in preorder, without padding.

Each distinct token of a prompt and its K responses is stored once; a response is a path from the
root. A token from which nothing is predicted, the last of a response that no other continues, is
not fed to a language model: it is a target only. A reward is read there, so for a reward model it
is fed (`feed_last`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from redpencil.types import (
    Example,
    Pairs,
    Places,
    Rollout,
    Rollouts,
    Segment,
    TreeBatch,
)


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One example laid flat, or several whose prompts begin alike; indices are counted from its own
    first token and first response."""

    examples: tuple[Example, ...]
    input_ids: np.ndarray
    position_ids: np.ndarray
    subtree_end: np.ndarray
    predecessor: np.ndarray
    target_ids: np.ndarray
    path_response: np.ndarray
    path_token: np.ndarray
    segments: tuple[Segment, ...]
    last_token: np.ndarray | None = None
    """(K,) flat index of each response's last token, where these are fed."""

    @property
    def tokens(self) -> int:
        """Distinct tokens fed to the model."""
        return len(self.input_ids)

    @property
    def attention_area(self) -> int:
        """Query-key pairs: every token sees its path."""
        return int(self.position_ids.sum()) + len(self.position_ids)

    @property
    def padded_tokens(self) -> int:
        """Token slots of the same examples as separate sequences, each example's padded to their
        longest."""
        return sum(
            len(e.responses) * (len(e.prompt_ids) + max(len(r.ids) for r in e.responses))
            for e in self.examples
        )

    @property
    def prompt_ids(self) -> np.ndarray:
        """The first example's prompt; of examples laid together, only that one's."""
        return self.examples[0].prompt_ids


_Branch = tuple[list[int], int, int, int]
"""Paths that go on alike: which, from what position, below which token and which segment."""


class _Layer:
    """Lays examples: walks the trie of their paths in preorder and appends to flat lists."""

    def __init__(self, examples: Sequence[Example], *, feed_last: bool) -> None:
        self.feed_last = feed_last
        each = [(e.prompt_ids, r) for e in examples for r in e.responses]
        self.paths = [np.concatenate([prompt, r.ids]) for prompt, r in each]
        self.scored = [np.concatenate([np.zeros(len(p), dtype=bool), r.scored]) for p, r in each]
        self.last_token = np.full(len(self.paths), -1)
        self.size = 0
        self.scored_count = 0
        self.segments: list[Segment] = []
        self.positions: list[np.ndarray] = []
        self.inputs: list[np.ndarray] = []
        self.predecessors: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []
        self.tokens_of: list[list[np.ndarray]] = [[] for _ in self.paths]

    def lay(self) -> None:
        """Lay all paths. By a stack: a text cut at each of its turns is hundreds of levels deep."""
        waiting = self._below([*range(len(self.paths))], 0, -1, -1)
        while waiting:
            waiting += self._lay_segment(*waiting.pop())

    def subtree_ends(self) -> np.ndarray:
        """(segments,) the last token under each."""
        ends = [segment.end - 1 for segment in self.segments]
        for segment, end in zip(reversed(self.segments), reversed(ends), strict=True):
            if segment.parent >= 0:
                ends[segment.parent] = max(ends[segment.parent], end)
        return np.array(ends, dtype=np.int64)

    def _below(self, members: list[int], at: int, parent_token: int, parent: int) -> list[_Branch]:
        """What follows position `at - 1` of the members' paths, which agree up to there; the first
        branch last."""
        branches: dict[int, list[int]] = {}
        for m in members:
            if len(self.paths[m]) > at:
                branches.setdefault(int(self.paths[m][at]), []).append(m)
        return [(branch, at, parent_token, parent) for branch in reversed(branches.values())]

    def _lay_segment(
        self, members: list[int], at: int, parent_token: int, parent: int
    ) -> list[_Branch]:
        """Lay what the members share from `at` on; returns what lies below."""
        end = at + common_length([self.paths[m][at:] for m in members])
        goes_on = any(len(self.paths[m]) > end for m in members)
        fed = end - at - (not goes_on and not self.feed_last)
        first, segment = self.size, parent
        if fed:
            segment = len(self.segments)
            self.segments.append(Segment(first, first + fed, parent))
            self.inputs.append(self.paths[members[0]][at : at + fed])
            self.positions.append(np.arange(at, at + fed))
            self.size += fed
        for m in members:
            if len(self.paths[m]) == end:  # also where another response goes on from here
                self.last_token[m] = self.size - 1
        self._score(members, at, end, first, parent_token)
        return self._below(members, end, self.size - 1 if fed else parent_token, segment)

    def _score(self, members: list[int], at: int, end: int, first: int, parent_token: int) -> None:
        """Enter the scored tokens of positions [at, end) and who they belong to."""
        masks = np.stack([self.scored[m][at:end] for m in members])
        if at == 0:
            masks[:, 0] = False  # the first token of a path has nothing before it to predict it
        any_scores = masks.any(axis=0)
        before = np.arange(first - 1, first - 1 + end - at)
        before[0] = parent_token
        self.predecessors.append(before[any_scores])
        self.targets.append(self.paths[members[0]][at:end][any_scores])
        rank = self.scored_count + np.cumsum(any_scores) - 1
        for m, mask in zip(members, masks, strict=True):
            self.tokens_of[m].append(rank[mask])
        self.scored_count += int(any_scores.sum())


def common_length(paths: Sequence[np.ndarray]) -> int:
    """Length of the longest common beginning."""
    shortest = min(len(p) for p in paths)
    for other in paths[1:]:
        differs = paths[0][:shortest] != other[:shortest]
        if differs.any():
            shortest = int(differs.argmax())
    return shortest


def lay_tree(*examples: Example, feed_last: bool = False) -> Tree:
    """Lay one example flat in preorder, or several that begin alike, from one root.

    feed_last: every response's last token is fed, too, and `last_token` says where it lies.
    """
    layer = _Layer(examples, feed_last=feed_last)
    layer.lay()
    tokens_of = [np.concatenate(parts) if parts else _NONE for parts in layer.tokens_of]
    lengths = [s.end - s.start for s in layer.segments]
    return Tree(
        examples=examples,
        input_ids=_concatenate(layer.inputs),
        position_ids=_concatenate(layer.positions),
        subtree_end=np.repeat(layer.subtree_ends(), lengths),
        predecessor=_concatenate(layer.predecessors),
        target_ids=_concatenate(layer.targets),
        path_response=np.repeat(np.arange(len(tokens_of)), [len(t) for t in tokens_of]),
        path_token=_concatenate(tokens_of),
        segments=tuple(layer.segments),
        last_token=layer.last_token if feed_last else None,
    )


_NONE = np.zeros(0, dtype=np.int64)


def _concatenate(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else _NONE


def join_trees(trees: Sequence[Tree]) -> TreeBatch:
    """Lay trees side by side into one micro-batch; indices are shifted, nothing is padded."""
    assert trees, "a micro-batch has at least one tree"
    examples = tuple(e for t in trees for e in t.examples)
    token_base = _starts([t.tokens for t in trees])
    scored_base = _starts([len(t.target_ids) for t in trees])
    response_base = _starts([len(e.responses) for e in examples])
    tree_base = _starts([sum(len(e.responses) for e in t.examples) for t in trees])
    path_response = _shifted([t.path_response for t in trees], tree_base)
    responses = [r for e in examples for r in e.responses]
    predecessor = _shifted([t.predecessor for t in trees], token_base)
    last_token = _last_tokens(trees, token_base)
    return TreeBatch(
        input_ids=torch.from_numpy(_concatenate([t.input_ids for t in trees])),
        position_ids=torch.from_numpy(_concatenate([t.position_ids for t in trees])),
        subtree_end=_shifted([t.subtree_end for t in trees], token_base),
        predecessor=predecessor,
        target_ids=torch.from_numpy(_concatenate([t.target_ids for t in trees])),
        path_response=path_response,
        path_token=_shifted([t.path_token for t in trees], scored_base),
        lengths=torch.bincount(path_response, minlength=len(responses)),
        weights=torch.tensor([r.weight for r in responses], dtype=torch.float32),
        response_index=torch.cat(
            [torch.arange(len(e.responses)) + e.response_base for e in examples]
        ),
        predicting=_places(predecessor),
        pairs=_pairs(examples, response_base),
        segments=_shifted_segments(trees, token_base),
        examples=examples,
        rollouts=_rollouts([r.rollout for r in responses]),
        last_token=last_token,
        ending=None if last_token is None else _places(last_token),
    )


def lay_trees(examples: Sequence[Example], *, feed_last: bool = False) -> TreeBatch:
    """Lay examples flat into one micro-batch, one tree each."""
    return join_trees([lay_tree(e, feed_last=feed_last) for e in examples])


def _last_tokens(trees: Sequence[Tree], token_base: Sequence[int]) -> torch.Tensor | None:
    """Of all trees, or of none: they are laid in one way."""
    last = [t.last_token for t in trees if t.last_token is not None]
    if not last:
        return None
    assert len(last) == len(trees), f"{len(last)} of {len(trees)} trees feed their last tokens"
    return _shifted(last, token_base)


def _places(index: torch.Tensor) -> Places:
    host = np.unique(index.numpy())
    return Places(torch.from_numpy(host), host)


def _starts(sizes: Sequence[int]) -> list[int]:
    return [0, *np.cumsum(sizes)[:-1].tolist()]


def _shifted(parts: Sequence[np.ndarray], bases: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(_concatenate([p + b for p, b in zip(parts, bases, strict=True)]))


def _shifted_segments(trees: Sequence[Tree], token_base: Sequence[int]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    for tree, base in zip(trees, token_base, strict=True):
        above = len(segments)
        segments += (
            Segment(s.start + base, s.end + base, s.parent + above if s.parent >= 0 else -1)
            for s in tree.segments
        )
    return tuple(segments)


def _rollouts(rollouts: Sequence[Rollout | None]) -> Rollouts | None:
    """Of all responses, or of none."""
    drawn = [r for r in rollouts if r is not None]
    if not drawn:
        return None
    assert len(drawn) == len(rollouts), f"{len(drawn)} of {len(rollouts)} responses are rollouts"

    def flat(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(r, name) for r in drawn]))

    return Rollouts(
        rewards=torch.tensor([r.reward for r in drawn], dtype=torch.float32),
        pi_logps=flat("pi_logps"),
        ref_logps=flat("ref_logps"),
        advantages=flat("advantages"),
        returns=flat("returns"),
    )


def _pairs(examples: Sequence[Example], response_base: Sequence[int]) -> Pairs:
    placed = [
        (c, base) for e, base in zip(examples, response_base, strict=True) for c in e.comparisons
    ]
    return Pairs(
        chosen=torch.tensor([c.chosen + base for c, base in placed], dtype=torch.int64),
        rejected=torch.tensor([c.rejected + base for c, base in placed], dtype=torch.int64),
        weight=torch.tensor([c.weight for c, _ in placed], dtype=torch.float32),
        margin=torch.tensor([c.margin for c, _ in placed], dtype=torch.float32),
        probability=torch.tensor([c.probability for c, _ in placed], dtype=torch.float32),
    )
