"""The notebook's writer: `RUN/pairs.parquet`, what each pair measured at every look.

Training pairs cost nothing: a step has just computed their log-probabilities. These stay on the
device, and are brought over together, so that the device is not waited for in between. A part is
written at every evaluation and before every checkpoint: whoever goes on from a checkpoint finds all
that was measured up to it, and what came after it is written again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from torch import Tensor, nn

from redpencil.data.group import numbered
from redpencil.data.store import Examples
from redpencil.engine.state import TrainState
from redpencil.evals.pairs import Comparisons, Valued, comparisons_of, pair_numbers
from redpencil.notebook.schema import JUDGES_AT_START, PAIR_SCHEMA, PAIRS, part_name
from redpencil.places import whole_file
from redpencil.stages.references import References
from redpencil.types import Comparison, Example, Measured, Task, TreeBatch

HELD_STEPS = 64
"""Steps whose measurements wait on the device until they are brought over together."""

Seen = tuple[tuple[Example, ...], Tensor]
"""A micro-batch's examples, and of their responses (3, B): log-probabilities (of a reward model
rewards), rewards, and how far rounding reaches into these."""


class PairLog:
    """Writes the pairs of a run. references: None where responses measure as rewards.

    judges_at_start: whether margins before the first update are an opinion of the model, neither
    0 by construction nor a new head's.
    """

    def __init__(
        self,
        run_folder: Path,
        train: Examples,
        evaluation: Examples,
        references: References | None,
        *,
        judges_at_start: bool,
    ) -> None:
        self._marks = {JUDGES_AT_START: b"1" if judges_at_start else b"0"}
        self.folder = run_folder / PAIRS
        self.train, self.evaluation, self.references = train, evaluation, references
        self._first_responses, self._first_pairs = train.first_responses, train.first_pairs
        self.held_out = comparisons_of(
            zip(evaluation.first_pairs.tolist(), evaluation, strict=True)
        )
        self._step: list[Seen] = []
        self._steps: list[tuple[int, list[Seen]]] = []
        self._waiting: list[pa.Table] = []

    def go_on(self, step: int | None) -> None:
        """Begin anew (None), or after a step: parts of later ones are removed."""
        last = "" if step is None else part_name(step)
        for path in self.folder.glob("*part-*"):
            if path.name.startswith(".") or path.name > last:
                path.unlink()

    def observed(self, task: Task) -> Task:
        """The task, with what it measures noted."""

        def measure(model: nn.Module, batch: TreeBatch) -> Measured:
            seen = task.measure(model, batch)
            worth = seen.rewards
            assert worth is not None, "pairs are compared by rewards"
            values = torch.stack([seen.pi_logps, worth.values, worth.rounding])
            self._step.append((batch.examples, values))
            return seen

        return replace(task, measure=measure)

    def stepped(self, state: TrainState) -> TrainState:
        """Call after each update: what was noted since the last one belongs to this step."""
        self._steps.append((state.step, self._step))
        self._step = []
        if len(self._steps) == HELD_STEPS:
            self._bring_over()
        return state

    def write(self, step: int, held_out: Valued | None = None) -> None:
        """Write what waits as the part of this step, whole or not at all.

        held_out: the responses of an evaluation at it.
        """
        self._bring_over()
        if held_out is not None and len(self.held_out):
            numbers = self.held_out_numbers(held_out)
            self._waiting.append(_table("eval", step, self.held_out, numbers))
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).unify_dictionaries()
        table = table.replace_schema_metadata(self._marks)
        self.folder.mkdir(parents=True, exist_ok=True)
        # On the disk at once: a checkpoint that is there counts on it.
        with whole_file(self.folder / part_name(step), "wb", durable=True) as file:
            parquet.write_table(table, file, compression="zstd")
        self._waiting = []

    def _bring_over(self) -> None:
        seen = [values for _, step in self._steps for _, values in step]
        if seen:
            flat = torch.cat([values.float() for values in seen], dim=1).cpu().numpy()
            ends = np.cumsum([values.shape[1] for values in seen])
            here = iter(np.split(flat, ends[:-1], axis=1))
            for step, of_step in self._steps:
                self._waiting.append(self._trained(step, [(e, next(here)) for e, _ in of_step]))
        self._steps = []

    def _trained(
        self, step: int, seen: Iterable[tuple[tuple[Example, ...], np.ndarray]]
    ) -> pa.Table:
        """The pairs of one step. Where memory ran out, what was computed anew counts."""
        latest: dict[int, tuple[Example, np.ndarray]] = {}
        for examples, values in seen:
            end = 0
            for example in examples:
                begin, end = end, end + len(example.responses)
                latest[example.response_base] = example, values[:, begin:end]
        bases = np.array(sorted(latest), dtype=np.int64)
        first = self._first_pairs[np.searchsorted(self._first_responses, bases)]
        index = np.concatenate([b + np.arange(latest[b][1].shape[1]) for b in bases.tolist()])
        here = numbered(latest[b][0] for b in bases.tolist())
        compared = comparisons_of(zip(first.tolist(), here, strict=True))
        logps, rewards, rounding = np.concatenate([latest[b][1] for b in bases.tolist()], axis=1)
        valued = Valued(pi_logps=logps, rewards=rewards, rounding=rounding)
        ref_B = None if self.references is None else self.references.train[index]
        return _table("train", step, compared, pair_numbers(compared, valued, ref_B))

    def held_out_numbers(self, valued: Valued) -> Mapping[str, np.ndarray]:
        """(T,) columns of the held-out comparisons, from an evaluation's responses."""
        known = None if self.references is None else self.references.evaluation
        return pair_numbers(self.held_out, valued, known)

    def training_pair(self, pair: int) -> tuple[Example, Comparison]:
        """The training comparison of this number, and the example it is in."""
        return _find(self.train, self._first_pairs, pair)

    def held_out_pair(self, pair: int) -> tuple[Example, Comparison]:
        """The held-out comparison of this number, and the example it is in."""
        return _find(self.evaluation, self.evaluation.first_pairs, pair)


def _table(
    split: str, step: int, compared: Comparisons, numbers: Mapping[str, np.ndarray]
) -> pa.Table:
    count = len(compared)
    columns: dict[str, np.ndarray | list[str]] = {
        "split": [split] * count,
        "step": np.full(count, step),
        "pair": compared.pair,
        "file": compared.file,
        "row": compared.row,
        **numbers,
        "length_chosen": compared.length_chosen,
        "length_rejected": compared.length_rejected,
    }
    arrays = [_array(columns.get(field.name), count, field.type) for field in PAIR_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=PAIR_SCHEMA)


def _array(values: np.ndarray | list[str] | None, count: int, kind: pa.DataType) -> pa.Array:
    if values is None:
        return pa.nulls(count, kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode().cast(kind)
    return pa.array(np.asarray(values).astype(kind.to_pandas_dtype(), copy=False), kind)


def _find(examples: Examples, first_pairs: np.ndarray, pair: int) -> tuple[Example, Comparison]:
    at = int(np.searchsorted(first_pairs, pair, side="right")) - 1
    example = examples[at]
    return example, example.comparisons[pair - int(first_pairs[at])]
