"""`RUN/tokens.parquet`: the tokens that carry the margins of the most telling held-out pairs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from redpencil.console import warn
from redpencil.data.group import number_responses
from redpencil.data.loader import all_once
from redpencil.data.packing import tree_cost
from redpencil.data.pieces import text_pieces
from redpencil.errors import MemoryExceeded
from redpencil.models.memory import BatchTooLarge, out_of_memory_is_batch_too_large
from redpencil.notebook import KINDS, Histories, read_notebook
from redpencil.notebook.schema import TOKEN_SCHEMA, TOKENS
from redpencil.places import whole_file
from redpencil.scores.forward import path_logps
from redpencil.scores.in_memory import in_memory
from redpencil.scores.oracle import oracle_path_logps
from redpencil.stages.pair_log import PairLog
from redpencil.stages.tasks import in_precision
from redpencil.stages.wiring import Wiring
from redpencil.types import Example, TreeBatch

PRESSED, BROKEN, RIGHT = 150, 75, 75
"""Pairs whose tokens are written: those with the lowest margins, of the broken those with the
lowest, and those with the highest."""


def write_pair_tokens(wiring: Wiring, pairs: PairLog) -> None:
    """Score the most telling held-out pairs token by token under policy and reference.

    Where the memory does not hold both models, or the pairs cannot be read, it says so and writes
    nothing.
    """
    notebook = read_notebook(wiring.folder.path, splits=("eval",))
    if notebook is None or not len(pairs.held_out):
        return
    held_out = notebook.sides.get("eval")
    if held_out is None:  # unread, for what was measured was written
        warn(f"{TOKENS} is not written: {notebook.damaged[0]}")
        return
    numbers = telling(held_out)
    examples = number_responses(_alone(pairs, number) for number in numbers)
    try:
        with out_of_memory_is_batch_too_large():
            ratios = _log_ratios(wiring, examples)
    except (BatchTooLarge, MemoryExceeded) as error:
        warn(f"{TOKENS} is not written: memory holds no reference beside the policy ({error})")
        return
    rows = [
        row
        for number, example in zip(numbers, examples, strict=True)
        for row in _rows(number, example, ratios, wiring)
    ]
    with whole_file(wiring.folder.path / TOKENS, "wb") as file:
        parquet.write_table(pa.Table.from_pylist(rows, TOKEN_SCHEMA), file, compression="zstd")


def telling(histories: Histories) -> list[int]:
    """Numbers of the pairs to be written, ascending."""
    margin = histories.last("margin")
    order = np.argsort(margin, kind="stable")
    broken = order[histories.codes[order] == KINDS.index("broken")]
    chosen = np.unique(np.concatenate([order[:PRESSED], broken[:BROKEN], order[::-1][:RIGHT]]))
    return sorted(histories.pairs[chosen].tolist())


def _alone(pairs: PairLog, number: int) -> Example:
    """A held-out comparison as an example with its two responses only."""
    example, comparison = pairs.held_out_pair(number)
    ends = (example.responses[comparison.chosen], example.responses[comparison.rejected])
    return replace(
        example, responses=ends, comparisons=(replace(comparison, chosen=0, rejected=1),)
    )


@torch.no_grad()
def _log_ratios(wiring: Wiring, examples: Sequence[Example]) -> list[np.ndarray]:
    """For each response, (scored tokens,) log pi - log pi_ref in nats."""
    references = wiring.references
    assert references is not None
    tokens = path_logps if wiring.cost is tree_cost else oracle_path_logps
    score = in_precision(tokens, wiring.device)
    ratios: list[np.ndarray] = [np.empty(0)] * sum(len(e.responses) for e in examples)
    was_training = wiring.model.training
    wiring.model.eval()
    try:
        with references.live_tokens(wiring.model) as reference:

            def ratios_of(batch: TreeBatch) -> np.ndarray:
                moved = batch.to(wiring.device)
                ratio_E = score(wiring.model, moved).float() - reference(moved).float()
                return ratio_E.cpu().numpy()

            batches = all_once(examples, wiring.recipe.token_budget, wiring.cost)
            for batch, ratio_E in in_memory(batches, ratios_of):
                ends = np.cumsum(batch.lengths.numpy())[:-1]
                of_response = np.split(ratio_E, ends)
                for index, of_one in zip(batch.response_index.tolist(), of_response, strict=True):
                    ratios[index] = of_one
    finally:
        wiring.model.train(was_training)
    return ratios


def _rows(
    number: int, example: Example, ratios: Sequence[np.ndarray], wiring: Wiring
) -> Iterator[dict[str, Any]]:
    for side, place in (("chosen", 0), ("rejected", 1)):
        response = example.responses[place]
        of_token = np.zeros(len(response.ids), dtype=np.float32)
        of_token[response.scored] = ratios[example.response_base + place]
        pieces = text_pieces(response.ids, wiring.tokenizer, after=example.prompt_ids)
        yield {
            "split": "eval",
            "pair": number,
            "side": side,
            "tokens": [text for text, _ in pieces],
            "logratio": [float(of_token[begin:end].sum()) for _, (begin, end) in pieces],
        }
