"""Values that cross floors: frozen dataclasses, the doors between rooms.

The flow is records -> examples -> batch -> scores -> outcome; this file is that list.

Shape letters, used in names and docstrings everywhere:

    P  prompts                      B  responses            T  comparisons
    N  distinct tokens fed          S  scored tokens        E  (response, scored token) incidences
    G  segments                     D  hidden width         V  vocabulary
"""

from __future__ import annotations  # so that torch, which takes seconds to load, need not be there

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from redpencil.movable import Movable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Message = Mapping[str, Any]
"""One chat turn: `role`, `content`, and whatever the chat template knows (`tool_calls`, ...)."""

Content = str | tuple[Message, ...] | np.ndarray
"""Plain text, chat turns, or ready token ids (1-D int32)."""

Unit = Literal["comparison", "response", "token"]
"""What an objective's sum of losses is divided by."""

Vote = Literal["first", "second", "tie"]
"""What a judge who was shown two answers said of their places."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row came from. `row` counts from 1: in JSONL it is the line number."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Response `chosen` beats response `rejected`; both index the responses of one prompt.

    weight: multiplies the loss. margin: reward lead that is asked of the chosen response
    (subtracted inside the sigmoid). probability: how sure it is that chosen beats rejected
    (1 = certain, 0.5 = a coin toss).
    """

    chosen: int
    rejected: int
    weight: float = 1.0
    margin: float = 0.0
    probability: float = 1.0
    origin: Origin | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """One usable row, still text: a prompt, K responses and what is known about them.

    All contents of a record are of one kind (text, chat turns or ids). `weights`, if given, has
    one entry for each response (SFT). `tools` is what a chat template takes as `tools`.
    """

    prompt: Content
    responses: tuple[Content, ...]
    comparisons: tuple[Comparison, ...]
    origin: Origin
    weights: tuple[float, ...] | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A well-formed row that cannot be used, set aside with its reason.

    reason: a short fixed phrase, counted on screen ("identical pair"); detail: what was seen.
    """

    origin: Origin
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollout:
    """What is known of a response that the policy drew, for RL.

    reward: of the whole response, the KL penalty apart. For each of its scored tokens, (L,)
    float32: pi_logps and ref_logps, log-probabilities under the policy that drew it and under the
    reference; advantages; returns that a critic is to expect (0 where there is none).
    """

    reward: float
    pi_logps: np.ndarray
    ref_logps: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Response:
    """Token ids of one response (end of turn included) and which of them are scored.

    ids: (L,) int32; scored: (L,) bool. weight multiplies its loss in SFT. rollout: in RL only.
    """

    ids: np.ndarray
    scored: np.ndarray
    origin: Origin
    weight: float = 1.0
    rollout: Rollout | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """One prompt with K responses as token ids: a tree, or part of one that prompts share.

    prompt_ids: (P,) int32, exactly what generation would see. prompt_key identifies the prompt
    before truncation: rows with equal keys never straddle the train / evaluation split.
    """

    prompt_ids: np.ndarray
    responses: tuple[Response, ...]
    comparisons: tuple[Comparison, ...]
    prompt_key: str
    response_base: int = 0
    """Index of this example's first response among all responses of its data set."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of flat tokens without a branch: [start, end), below segment `parent` (-1: a root)."""

    start: int
    end: int
    parent: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs(Movable):
    """Comparisons of a micro-batch as index vectors into its B responses.

    chosen, rejected: (T,) int64; weight, margin, probability: (T,) float32.
    """

    chosen: Tensor
    rejected: Tensor
    weight: Tensor
    margin: Tensor
    probability: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollouts(Movable):
    """The rollouts of a micro-batch's B responses, flat as their E scored tokens are.

    rewards: (B,) float32. pi_logps, ref_logps, advantages, returns: (E,) float32.
    """

    rewards: Tensor
    pi_logps: Tensor
    ref_logps: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Places(Movable):
    """Some of the N flat tokens, in order and each once.

    index: (R,) int64, on the batch's device. host: the same, which no one has to wait for.
    """

    index: Tensor
    host: np.ndarray

    def __len__(self) -> int:
        return len(self.host)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreeBatch(Movable):
    """A micro-batch: prefix trees laid flat in preorder, without padding. Examples whose prompts
    begin alike may be one tree.

    Attention needs one rule: query q sees key k iff k <= q <= subtree_end[k].

    A token from which nothing is predicted (the last of a response) is a target but need not be
    an input, so `target_ids` is not a gather from `input_ids`. Example, prompt "a b", responses
    "c d" and "c e" (the leaves d and e are not fed):

        input_ids      a b c        position_ids  0 1 2      subtree_end  2 2 2
        predecessor    1 2 2        target_ids    c d e
        path_response  0 0 1 1      path_token    0 1 0 2
    """

    input_ids: Tensor
    """(N,) int64, every distinct token once."""
    position_ids: Tensor
    """(N,) int64, depth of the token on its path."""
    subtree_end: Tensor
    """(N,) int64, flat index of the last token in the subtree under this token."""
    predecessor: Tensor
    """(S,) int64, for each scored token the flat index of the token before it on its path."""
    target_ids: Tensor
    """(S,) int64, the scored token itself."""
    path_response: Tensor
    """(E,) int64, sorted: scored token path_token[e] lies on response path_response[e]."""
    path_token: Tensor
    """(E,) int64, indices into the S scored tokens, in path order within each response."""
    lengths: Tensor
    """(B,) int64, scored tokens of each response (its incidences)."""
    weights: Tensor
    """(B,) float32, weight of each response (SFT)."""
    response_index: Tensor
    """(B,) int64, index of each response in its data set: where its reference is looked up."""
    predicting: Places
    """The distinct tokens of `predecessor`: all whose last hidden state log-probabilities need."""
    pairs: Pairs
    segments: tuple[Segment, ...]
    """The same trees as runs of tokens, in preorder, for attention on a CPU."""
    examples: tuple[Example, ...]
    """What the trees were laid from: the oracle's input, and the rows' names."""
    rollouts: Rollouts | None = None
    """In RL only, where the policy drew the responses."""
    last_token: Tensor | None = None
    """(B,) int64, flat index of each response's own last token: where a reward is read. None where
    the trees were laid without their last tokens."""
    ending: Places | None = None
    """The distinct tokens of `last_token`: all whose last hidden state rewards need."""

    @property
    def tokens(self) -> int:
        """N, the distinct tokens that are fed."""
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """One optimizer step: micro-batches whose losses are summed and divided once."""

    micro_batches: tuple[TreeBatch, ...]

    def pinned(self) -> Batch:
        """From which each micro-batch goes to a GPU in one copy."""
        return Batch(tuple(m.pinned() for m in self.micro_batches))

    def count(self, unit: Unit) -> int:
        """How many comparisons, responses or scored tokens the whole batch holds."""
        match unit:
            case "comparison":
                return sum(len(m.pairs.chosen) for m in self.micro_batches)
            case "response":
                return sum(len(m.lengths) for m in self.micro_batches)
            case "token":
                return sum(len(m.path_token) for m in self.micro_batches)

    @property
    def examples(self) -> tuple[Example, ...]:
        return tuple(e for m in self.micro_batches for e in m.examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores(Movable):
    """What an objective sees of the model: flat per-response quantities, never a tree.

    pi_logps, ref_logps: (B,) float32, log-probability of each response, summed over its scored
    tokens, under the policy and the reference (None where the objective needs no reference).
    lengths: (B,) int64 scored tokens. weights: (B,) float32.
    """

    pi_logps: Tensor
    ref_logps: Tensor | None
    lengths: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an objective returns.

    losses: (T,) or (B,), weights applied, to be summed and divided by the global count of the
    objective's unit. rewards: (B,) detached, what the responses are worth to this objective; None:
    the implicit beta * (log pi - log pi_ref), with beta 1 where the objective has none.
    """

    losses: Tensor
    rewards: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards(Movable):
    """What an objective holds each response to be worth: the one definition of a pair's reward, for
    metrics, notebook, report and `eval` alike.

    values: (B,) float32, detached. rounding: (B,) float32, how far the rounding of a response's
    log-probability reaches into its value: a lead within the rounding of both sides is a tie.
    """

    values: Tensor
    rounding: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One micro-batch seen through a task: what the engine sums, and what it never looks into.

    losses: (T,) or (B,) with graph, weights applied. statistics: 0-d sums over the task's
    `statistics_unit`. pi_logps: (B,) detached. rewards: what the responses are worth, where pairs
    are compared by it.
    """

    losses: Tensor
    statistics: Mapping[str, Tensor]
    pi_logps: Tensor
    rewards: Rewards | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is trained or measured, as the engine sees it: a micro-batch becomes losses."""

    measure: Callable[[torch.nn.Module, TreeBatch], Measured]
    unit: Unit
    statistics_unit: Unit = "comparison"
