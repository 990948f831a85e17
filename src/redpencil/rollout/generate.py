"""Generation by transformers, and how it must be asked to give a model's own numbers.

Prompts of unlike length are padded on the left and generated from with a cache. Not every model
bears that: some count chunks or the temperature of their attention from the beginning of the row,
padding included; some scan over the padding; of some the cache gives other numbers than the text
read again. So each way is tried on three short prompts, before the first completion is drawn, and
compared with the texts that came of it, read at once, one by one and without a cache, as they are
scored. The first way that gives the same numbers is taken (`generation`).
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from redpencil.console import say
from redpencil.errors import ModelError, NonFiniteError
from redpencil.models.configs import ordinary_tokens
from redpencil.models.head import unwrap
from redpencil.models.memory import is_out_of_memory
from redpencil.models.probe import Sharing, short_reach
from redpencil.models.quiet import quiet, said

TOLERANCE = {torch.float64: 1e-5, torch.float32: 5e-4, torch.float16: 0.03, torch.bfloat16: 0.15}
"""How far log-probabilities of generation and of the text read again may lie apart, by dtype
(transformers' generation gives float32 at most): at the farthest token, in half precision at the
median one, for rounding sends single tokens to other experts."""

NOT_FINITE = (
    "the model's next-token probabilities are not finite, so nothing can be sampled; the last "
    "checkpoint is kept; a lower learning rate may help"
)

_UNLIKELY = -12.0
"""Log-probability below which rounding is large and nothing is ever drawn."""

_NEW = 6
"""Tokens that are generated to try a way; with the longest prompt they exceed the windows that
`short_reach` leaves."""

_GENERATION = "_redpencil_generation"
"""Mark on a model for which it was measured."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Which prompts may be generated from in one call, and whether with a cache."""

    together: Sharing
    cached: bool


_TOGETHER: tuple[Sharing, ...] = ("any", "one length", "nothing")

_WAYS = [Generation(together, cached) for cached in (True, False) for together in _TOGETHER]
"""The fastest first."""


def generation(model: PreTrainedModel) -> Generation:
    """The fastest way to generate that gives this model's own numbers: measured at the first
    question, and said where it is not the usual one.

    Raises ModelError where none does.
    """
    causal = unwrap(model)
    known: Generation | None = getattr(causal, _GENERATION, None)
    if known is None:
        with torch.no_grad(), quiet():
            known = _measured(model)
        setattr(causal, _GENERATION, known)
        if known != _WAYS[0]:
            say(f"sampling  {_why(known, causal.config.model_type)}")
    return known


def _measured(model: PreTrainedModel) -> Generation:
    causal = unwrap(model)
    kind, dtype = causal.config.model_type, causal.dtype
    if next(model.parameters()).device.type == "cuda" and dtype == torch.float32:
        dtype = torch.bfloat16  # by autocast
    apart = {}
    with short_reach(causal):
        for way in _WAYS:
            try:
                apart[way] = _distance(model, way, half=dtype.itemsize == 2)
            except ModelError:
                raise
            except Exception as error:  # a model's own code
                if is_out_of_memory(error):
                    raise
                failed = said(error)
                continue
            if apart[way] <= TOLERANCE.get(dtype, 0.0):
                return way
    if not apart:
        raise ModelError(f"{kind} cannot write: generation fails ({failed})")
    if np.isnan(list(apart.values())).all():
        raise NonFiniteError(NOT_FINITE)
    raise ModelError(
        f"{kind} cannot write: what transformers generates differs from what the model says of the "
        f"same text by {min(apart.values()):.2g} nats a token"
    )


def _why(way: Generation, kind: str) -> str:
    reasons = {
        "any": "",
        "one length": f"padding changes the numbers of {kind}, so prompts of one length share a "
        "call",
        "nothing": f"{kind} gives other numbers beside other texts, so each text is written by "
        "itself",
    }
    cache = "" if way.cached else f"the cache of {kind} gives other numbers, so none is used"
    return "; ".join(part for part in (reasons[way.together], cache) if part)


def _distance(model: PreTrainedModel, way: Generation, *, half: bool) -> float:
    """How far what a way generates from is from the same texts read at once."""
    prompts = _probe_prompts(unwrap(model))
    calls = {
        "any": [prompts],
        "one length": [[p for p in prompts if len(p) == n] for n in {len(p) for p in prompts}],
        "nothing": [[p] for p in prompts],
    }[way.together]
    device = next(model.parameters()).device
    apart = []
    for call in calls:
        out = generated(model, call, 0, cached=way.cached, max_new_tokens=_NEW, output_logits=True)
        drawn_from = torch.stack(out.logits, dim=1).log_softmax(-1)
        new = out.sequences[:, -_NEW:]
        for prompt, tokens, theirs in zip(call, new, drawn_from, strict=True):
            ids = torch.cat([torch.from_numpy(prompt).to(device), tokens])
            with _own_distribution(model), in_scorers_precision(device):
                read = model(input_ids=ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
            read = read.float() if read.dtype.itemsize == 2 else read
            apart.append(_farthest(theirs, read.log_softmax(-1)))
    found = torch.cat(apart)
    assert len(found) == _NEW * len(prompts), found.shape
    return float(found.median() if half else found.max())


def _farthest(one: Tensor, other: Tensor) -> Tensor:
    """(L, V) log-probabilities, twice -> (L,) largest difference among likely tokens."""
    likely = torch.maximum(one, other) > _UNLIKELY
    return torch.where(likely | one.isnan() | other.isnan(), (one - other).abs(), 0.0).amax(-1)


def _probe_prompts(causal: Any) -> list[np.ndarray]:
    """Three, two of them of one length."""
    ordinary = ordinary_tokens(causal.config)
    begin = max(0, len(ordinary) // 2 - 8)
    ids = np.array((ordinary * 24)[begin : begin + 24], dtype=np.int64)
    return [ids[[1, 7, 4]], ids[[0, 2, 5, 3, 8, 6, 1, 9, 4]], ids[[3, 1, 9, 9, 2, 7, 0, 5, 6]]]


def generated(
    model: PreTrainedModel,
    prompts: Sequence[np.ndarray],
    pad_id: int,
    *,
    cached: bool = True,
    choose: LogitsProcessor | None = None,
    **how: object,
) -> Any:
    """What transformers' `generate` gives for left-padded prompts: `.sequences`, and what `how`
    asks for. The likeliest tokens, of the logits that `choose` returns. Nothing else counts: what
    the model's own generation config says (min_p, suppressed tokens, ...) is out of force, and on
    a GPU it computes in the scorers' precision."""
    _check_ids(model, prompts, pad_id)
    longest = max(len(p) for p in prompts)
    device = next(model.parameters()).device
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the left: generation goes on at the right
        ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask[row, longest - len(prompt) :] = 1
    with _own_distribution(model), in_scorers_precision(device):
        return model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            pad_token_id=pad_id,
            use_cache=cached,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            logits_processor=[] if choose is None else [choose],
            return_dict_in_generate=True,
            **how,
        )


def _check_ids(model: PreTrainedModel, prompts: Sequence[np.ndarray], pad_id: int) -> None:
    """Raises ModelError where a token that is fed has no embedding: a prompt's, or the end token,
    which pads the texts that are done."""
    size = unwrap(model).get_input_embeddings().weight.shape[0]
    largest = max(int(p.max()) for p in prompts)
    if max(largest, pad_id) >= size:
        what = "a prompt has" if largest >= size else "the end of a text is"
        raise ModelError(
            f"{what} token id {max(largest, pad_id)}, but the model knows only ids below {size}; "
            "the tokenizer belongs to another model"
        )


@contextmanager
def _own_distribution(model: PreTrainedModel) -> Iterator[None]:
    """Inside, in eval mode and without the generation config that came with the model."""
    bare = unwrap(model)
    config, was_training = bare.generation_config, model.training
    bare.generation_config = GenerationConfig()
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        bare.generation_config = config


def in_scorers_precision(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast on CUDA, as scores are computed; elsewhere nothing."""
    on_cuda = device.type == "cuda"
    return torch.autocast("cuda", dtype=torch.bfloat16) if on_cuda else nullcontext()
