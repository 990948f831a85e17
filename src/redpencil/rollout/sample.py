"""Completions sampled from a model, through transformers' batched generation with a cache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from redpencil.data.group import number_responses
from redpencil.errors import MemoryExceeded, ModelError, NonFiniteError
from redpencil.models.head import unwrap
from redpencil.models.memory import (
    BatchTooLarge,
    out_of_memory_is_batch_too_large,
    release_cached_memory,
)
from redpencil.types import Example, Origin, Response

Progress = Callable[[int], object]

SAMPLED = Origin("sampled from the policy", 0)


@torch.no_grad()
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

    The same seed, prompts and batch size give the same completions; the global random state is
    left as it was.
    """
    assert all(len(p) for p in prompts_ids), "a prompt has at least one token"
    # Prompts of like length go together, so that a batch has little padding.
    order = sorted(range(len(prompts_ids)), key=lambda i: len(prompts_ids[i]))
    completions: list[list[np.ndarray]] = [[] for _ in prompts_ids]
    each = max(1, batch_size // num)
    with torch.random.fork_rng(devices=cuda_devices(model)):
        torch.manual_seed(seed)
        at = 0
        while chosen := order[at : at + each]:
            try:
                with out_of_memory_is_batch_too_large():
                    new = _generate(
                        model,
                        [prompts_ids[i] for i in chosen],
                        pad_id,
                        num_return_sequences=num if temperature > 0 else 1,
                        max_new_tokens=max_new_tokens,
                        eos_token_id=list(eos_ids),
                        **_how(temperature, top_p),
                    )
            except BatchTooLarge:
                each = _fewer(len(chosen), num, max_new_tokens)
                continue
            at += len(chosen)
            rows = new.reshape(len(chosen), -1, new.shape[1])
            for i, drawn in zip(chosen, rows, strict=True):
                copies = 1 if temperature > 0 else num
                completions[i] = [cut(row, eos_ids) for row in drawn] * copies
            if progress:
                progress(len(chosen))
    return completions


def _fewer(prompts: int, num: int, max_new_tokens: int) -> int:
    """How many prompts to go on with at once. Raises MemoryExceeded where there is but one."""
    release_cached_memory()
    if prompts == 1:
        raise MemoryExceeded(
            f"memory ran out while {num} completions of up to {max_new_tokens} tokens of one "
            "prompt were sampled; ask for fewer or shorter ones, or shorten the prompts"
        )
    return prompts // 2


def _how(temperature: float, top_p: float) -> dict[str, object]:
    if temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}


def _generate(
    model: PreTrainedModel, prompts: Sequence[np.ndarray], pad_id: int, **how: object
) -> np.ndarray:
    """New tokens only, (prompts x num, length)."""
    sequences = generated(model, prompts, pad_id, **how).sequences
    new: np.ndarray = sequences[:, max(len(p) for p in prompts) :].cpu().numpy()
    return new


def generated(
    model: PreTrainedModel, prompts: Sequence[np.ndarray], pad_id: int, **how: object
) -> Any:
    """What transformers' `generate` gives for left-padded prompts: `.sequences`, and what `how`
    asks for. Nothing counts but `how`: what the model's own generation config says (min_p,
    suppressed tokens, ...) is out of force, and on a GPU it computes in the scorers' precision."""
    _check_ids(model, prompts, pad_id)
    longest = max(len(p) for p in prompts)
    device = next(model.parameters()).device
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the left: generation goes on at the right
        ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask[row, longest - len(prompt) :] = 1
    with _own_distribution(model), in_scorers_precision(device):
        try:
            return model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                pad_token_id=pad_id,
                use_cache=True,
                return_dict_in_generate=True,
                **how,
            )
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            raise NonFiniteError(
                "the model's next-token probabilities are not finite, so nothing can be sampled; "
                "the last checkpoint is kept; a lower learning rate may help"
            ) from None


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


def cut(row: np.ndarray, eos_ids: Sequence[int]) -> np.ndarray:
    """The tokens up to and including the first end token: what follows is padding."""
    ends = np.flatnonzero(np.isin(row, list(eos_ids)))
    return row[: ends[0] + 1 if len(ends) else len(row)].astype(np.int32)


def cuda_devices(model: PreTrainedModel) -> list[torch.device]:
    device = next(model.parameters()).device
    return [device] if device.type == "cuda" else []


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
