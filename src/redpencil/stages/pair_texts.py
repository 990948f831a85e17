"""`RUN/pairs.jsonl`: held-out pairs with their texts, and a sample of the training ones."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from redpencil.data.tokenize import readable
from redpencil.evals.pairs import Valued, origin_of
from redpencil.folders.run import RunFolder
from redpencil.notebook import measured_pairs, read_notebook
from redpencil.notebook.schema import LENGTHS, NUMBERS
from redpencil.stages.pair_log import PairLog
from redpencil.types import Comparison, Example

FILE = "pairs.jsonl"

SAMPLED = 1_000
"""Training pairs written with their texts; of more, this many at even distances."""


def texts_of(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[str]]:
    """An example's prompt and its responses, for a person."""
    prompt = example.prompt_ids
    responses = [readable(r.ids, tokenizer, after=prompt) for r in example.responses]
    return readable(prompt, tokenizer), responses


def write_pair_texts(
    folder: RunFolder,
    pairs: PairLog,
    tokenizer: PreTrainedTokenizerBase,
    step: int,
    valued: Valued | None,
) -> None:
    """Write the held-out pairs at this step behind those of earlier ones, and from step 1 on the
    sampled training pairs as they were last measured.

    valued: the responses of the evaluation; None where nothing is held out.
    """
    known = folder.read_rows_or_warn(FILE) if step else []
    before = [r for r in known if r.get("split") == "eval" and r.get("step") in range(step)]
    held_out = () if valued is None else _held_out(pairs, tokenizer, step, valued)
    trained = _trained(folder, pairs, tokenizer) if step else ()
    rows = [*before, *held_out, *trained]
    if rows:
        folder.write_rows(FILE, rows)


def _held_out(
    pairs: PairLog, tokenizer: PreTrainedTokenizerBase, step: int, valued: Valued
) -> Iterator[dict[str, Any]]:
    columns = {name: c.tolist() for name, c in pairs.held_out_numbers(valued).items()}
    number = 0
    for example in pairs.evaluation:
        texts = texts_of(example, tokenizer)
        for comparison in example.comparisons:
            numbers = {name: column[number] for name, column in columns.items()}
            yield _row("eval", step, number, example, comparison, texts, numbers, pairs)
            number += 1


def _trained(
    folder: RunFolder, pairs: PairLog, tokenizer: PreTrainedTokenizerBase
) -> Iterator[dict[str, Any]]:
    known = measured_pairs(folder.path, "train")
    at = np.unique(np.linspace(0, len(known) - 1, min(SAMPLED, len(known))).round()).astype(int)
    notebook = read_notebook(folder.path, splits=("train",), pairs=known[at])
    for history in notebook.pairs("train") if notebook else ():
        example, comparison = pairs.training_pair(history.pair)
        numbers = {name: getattr(history, name) for name in NUMBERS if name != "margin"}
        numbers = {name: value for name, value in numbers.items() if value is not None}
        numbers["margin"] = history.last_margin
        texts = texts_of(example, tokenizer)
        yield _row(
            "train", history.last_step, history.pair, example, comparison, texts, numbers, pairs
        )


def _row(
    split: str,
    step: int,
    number: int,
    example: Example,
    comparison: Comparison,
    texts: tuple[str, list[str]],
    numbers: dict[str, float],
    pairs: PairLog,
) -> dict[str, Any]:
    origin = origin_of(example, comparison)
    prompt, responses = texts
    ends = (example.responses[comparison.chosen], example.responses[comparison.rejected])
    sure = {"probability": comparison.probability} if pairs.references is None else {}
    return {
        "split": split,
        "step": step,
        "pair": number,
        "file": origin.file,
        "row": origin.row,
        "prompt": prompt,
        "chosen": responses[comparison.chosen],
        "rejected": responses[comparison.rejected],
        **{name: numbers[name] for name in NUMBERS if name in numbers},
        **sure,
        **{name: int(r.scored.sum()) for name, r in zip(LENGTHS, ends, strict=True)},
    }
