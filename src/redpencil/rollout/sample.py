"""Completions sampled from a model, through transformers' batched generation.

What is drawn depends on the model, the prompt, its place in the list, the number of the completion
and the seed, and on nothing that shares a call: each completion has uniform numbers of its own, and
each of its tokens is where one of them falls in the cumulative distribution. So memory may run out,
or a model may want prompts of one length together, and the same completions come.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel, TopPLogitsWarper

from redpencil.data.group import number_responses
from redpencil.errors import MemoryExceeded, NonFiniteError
from redpencil.models.memory import (
    BatchTooLarge,
    out_of_memory_is_batch_too_large,
    release_cached_memory,
)
from redpencil.models.positions import frequency_key
from redpencil.rollout.generate import NOT_FINITE, generated, generation
from redpencil.types import Example, Origin, Response

Progress = Callable[[int], object]

SAMPLED = Origin("sampled from the policy", 0)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A completion, (L,) int32, and the log-probabilities that its tokens were drawn by, (L,)
    float32: of the whole distribution at temperature 1, whatever the temperature was."""

    ids: np.ndarray
    logps: np.ndarray


@dataclass(frozen=True, slots=True)
class _Row:
    """One completion to draw: which, of which prompt of the list."""

    prompt: int
    ids: np.ndarray
    number: int


def sample(
    model: PreTrainedModel,
    prompts_ids: Sequence[np.ndarray],
    *,
    num: int,
    max_new_tokens: int,
    temperature: float,
    eos_ids: Sequence[int],
    pad_id: int,
    seed: int,
    top_p: float = 1.0,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> list[list[np.ndarray]]:
    """Sample `num` completions for each prompt.

    prompts_ids: 1-D int arrays, not empty. temperature 0 is greedy. Returns for each prompt `num`
    int32 arrays of new tokens, the end token included where one was drawn. Sampling is from the
    model's own distribution (no top-k, no repetition penalty, whatever its generation config
    says), so log-probabilities of these tokens are those of the scorer at temperature 1.

    The same seed and prompts give the same completions, but for rounding, whatever the batch size
    (completions at once; progress: told of prompts that are done). No global random state is used.
    Raises ModelError for a model that cannot write, MemoryExceeded and NonFiniteError.
    """
    drawn = sample_with_logps(
        model,
        prompts_ids,
        num=num,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        eos_ids=eos_ids,
        pad_id=pad_id,
        seed=seed,
        top_p=top_p,
        batch_size=batch_size,
        progress=progress,
    )
    return [[one.ids for one in each] for each in drawn]


@torch.no_grad()
def sample_with_logps(
    model: PreTrainedModel,
    prompts_ids: Sequence[np.ndarray],
    *,
    num: int,
    max_new_tokens: int,
    temperature: float,
    eos_ids: Sequence[int],
    pad_id: int,
    seed: int,
    top_p: float = 1.0,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> list[list[Drawn]]:
    """As `sample`, with what each token was drawn by."""
    assert all(len(p) for p in prompts_ids), "a prompt has at least one token"
    copies = 1 if temperature == 0 else num
    rows = [_Row(i, ids, k) for i, ids in enumerate(prompts_ids) for k in range(copies)]
    drawn: list[list[Drawn]] = [[] for _ in prompts_ids]
    each = max(1, batch_size)
    for call, cached in _calls(model, rows, max_new_tokens):
        at = 0
        while chosen := call[at : at + each]:
            draws = _Draws(chosen, max_new_tokens, temperature, top_p, seed)
            try:
                with out_of_memory_is_batch_too_large():
                    sequences = generated(
                        model,
                        [row.ids for row in chosen],
                        pad_id,
                        cached=cached,
                        choose=draws,
                        max_new_tokens=max_new_tokens,
                        eos_token_id=list(eos_ids),
                    ).sequences
            except BatchTooLarge:
                each = _fewer(len(chosen), max_new_tokens)
                continue
            at += len(chosen)
            new = sequences[:, max(len(row.ids) for row in chosen) :].cpu().numpy()
            for row, tokens, logps in zip(chosen, new, draws.logps(), strict=True):
                ids = cut(tokens, eos_ids)
                drawn[row.prompt].append(Drawn(ids, logps[: len(ids)]))
            if progress:
                progress(sum(row.number == copies - 1 for row in chosen))
    return [each * (num // copies) for each in drawn]


def _calls(
    model: PreTrainedModel, rows: Sequence[_Row], max_new_tokens: int
) -> Iterator[tuple[list[_Row], bool]]:
    """Rows that may share calls, and whether a cache gives the model's own numbers. Rows of like
    length are neighbours, so that a call has little padding.

    Where rotary frequencies depend on the longest position of a call, rows share one that stay on
    one side of the bound to their end. Those that cross it do so with their own length only, and
    read the text again for each token: a cache holds keys as they were turned before.
    """
    way, key = generation(model), frequency_key(model)

    def kept_apart(row: _Row) -> tuple[int, ...]:
        length = len(row.ids)
        frequencies = 0 if key is None else key(length)
        steady = key is None or frequencies == key(length + max_new_tokens)
        apart = {"any": (), "one length": (length,), "nothing": (length, row.prompt, row.number)}
        own = apart[way.together] if steady else apart[way.together] or (length,)
        return (int(steady), frequencies, *own)

    order = sorted(rows, key=lambda r: (kept_apart(r), len(r.ids), r.prompt, r.number))
    for (steady, *_), call in groupby(order, kept_apart):
        yield list(call), way.cached and bool(steady)


def _fewer(rows: int, max_new_tokens: int) -> int:
    """How many completions to go on with at once. Raises MemoryExceeded where there is but one."""
    release_cached_memory()
    if rows == 1:
        raise MemoryExceeded(
            f"memory ran out while one completion of up to {max_new_tokens} tokens was sampled; "
            "ask for shorter ones, or shorten the prompts"
        )
    return rows // 2


class _Draws(LogitsProcessor):
    """Chooses the next token of each row by the row's own uniform numbers, one for each token."""

    def __init__(
        self, rows: Sequence[_Row], tokens: int, temperature: float, top_p: float, seed: int
    ) -> None:
        streams = [np.random.default_rng([seed % 2**64, r.prompt, r.number]) for r in rows]
        self._uniform = torch.from_numpy(np.stack([s.random(tokens) for s in streams]))
        self._temperature = temperature
        self._nucleus = TopPLogitsWarper(top_p) if top_p < 1 else None
        self._logps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) logits -> (B, V), the chosen token's above all others."""
        if not scores.amax(-1).isfinite().all():
            raise NonFiniteError(NOT_FINITE)
        chosen = scores.argmax(-1) if self._temperature == 0 else self._drawn(input_ids, scores)
        own = scores.gather(1, chosen[:, None])[:, 0] - scores.logsumexp(-1)
        self._logps.append(own)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def _drawn(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B,) tokens by inversion of the cumulative distribution."""
        scores = scores / self._temperature
        if self._nucleus is not None:
            scores = self._nucleus(input_ids, scores)
        probabilities = scores.softmax(-1)
        if probabilities.device.type == "mps":  # which has no float64
            probabilities = probabilities.cpu()
        cumulative = probabilities.double().cumsum(-1)
        total = cumulative[:, -1:]
        uniform = self._uniform[:, len(self._logps), None].to(total.device)
        # Below the total: what has no probability is never reached.
        at = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
        return torch.searchsorted(cumulative, at, right=True)[:, 0].to(scores.device)

    def logps(self) -> np.ndarray:
        """(B, L) float32 log-probabilities of what was chosen, end tokens' successors too."""
        found: np.ndarray = torch.stack(self._logps, dim=1).cpu().numpy()
        return found


def cut(row: np.ndarray, eos_ids: Sequence[int]) -> np.ndarray:
    """The tokens up to and including the first end token: what follows is padding."""
    ends = np.flatnonzero(np.isin(row, list(eos_ids)))
    return row[: ends[0] + 1 if len(ends) else len(row)].astype(np.int32)


def as_examples(
    prompts: Sequence[np.ndarray], completions: Sequence[Sequence[np.ndarray]]
) -> list[Example]:
    """Sampled completions as examples, every new token scored."""
    return number_responses(
        Example(
            prompt_ids=prompt.astype(np.int32),
            responses=tuple(
                Response(ids=c, scored=np.ones(len(c), dtype=bool), origin=SAMPLED) for c in drawn
            ),
            comparisons=(),
            prompt_key=str(i),
        )
        for i, (prompt, drawn) in enumerate(zip(prompts, completions, strict=True))
    )
