"""The next round's data: the rows of the pairs that a run has wrong, as they stood in its files."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redpencil.console import say, warn
from redpencil.data.columns import ColumnMap
from redpencil.data.formats import format_of
from redpencil.data.judgements import written_out
from redpencil.data.reading import Source
from redpencil.data.records import load_records
from redpencil.data.sources import RawRow, attempt_rows, mapped
from redpencil.errors import DataError, RunFolderError
from redpencil.folders.targets import run_recipe
from redpencil.notebook import Histories, Kind, PairHistory, read_notebook
from redpencil.places import whole_file
from redpencil.recipes.stages import Recipe
from redpencil.types import Origin
from redpencil.use.run_data import Place, RunData, run_data

REASON = "notebook"
"""The column that says why a row is there. Training names it as one that it does not read."""

COUNTERPART = "counterpart"
"""The reason of a row that is there only because a label alone makes no pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What was written. pairs: of the kind that was asked for; others: pairs of other kinds that
    stand in the same rows. unchecked: nothing says whether the data are those of the run."""

    out: Path
    run: Path
    recipe: Recipe
    split: str
    kind: str
    rows: int
    pairs: int
    others: int
    columns: Mapping[str, str]
    unchecked: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "split": self.split,
            "kind": self.kind,
            "rows": self.rows,
            "pairs": self.pairs,
            "other_pairs": self.others,
        }


def write_again(
    run: Path, out: Path, *, split: str = "train", kind: Kind = "stubborn", data: str | None = None
) -> Again:
    """Write the rows that hold pairs of a kind to `out`, with all their columns and the reason.

    data: where the run's data lie now, if they were moved. Raises UserError, and then nothing was
    written: where `out` exists, the run has no such pairs, or its data are not those it had.
    """
    if out.suffix.lower() != ".jsonl":
        raise DataError(f"--again {out}: rows are written as JSON lines; name a .jsonl file")
    if out.exists():
        raise DataError(f"--again {out} exists; nothing was written over; name a new file")
    recipe = run_recipe(str(run))
    if recipe is None:
        raise RunFolderError(f"{run} is not a run of redpencil; name the folder that --out named")
    side = _side(run, split)
    pairs = side.of_kind(kind)
    if not pairs:
        raise RunFolderError(
            f"{run} has no {kind} {_named(split)} pairs, so there is nothing to write; "
            f"redpencil note {run} --split {split} shows what there is"
        )
    origin = run_data(run, recipe, split, data)
    wanted = _wanted(pairs, side.by_row(pairs), origin, recipe)
    narrowed: list[Place] = []
    written = _write(_rows(wanted, narrowed), out)
    return Again(
        out=out,
        run=run,
        recipe=recipe,
        split=split,
        kind=kind,
        rows=written,
        pairs=len(pairs),
        others=sum(wanted.others(place) for place in wanted.in_row.keys() - set(narrowed)),
        columns=wanted.columns,
        unchecked=not origin.hashes,
    )


def _side(run: Path, split: str) -> Histories:
    notebook = read_notebook(run)
    if notebook is not None and split in notebook.sides:
        for damage in notebook.damaged:
            warn(f"the notebook is damaged, and pairs may be missing: {damage}")
        return notebook.sides[split]
    why = f": {notebook.damaged[0]}" if notebook is not None and notebook.damaged else ""
    raise RunFolderError(f"{run} has no {_named(split)} pairs in its notebook (pairs.parquet){why}")


def _named(split: str) -> str:
    return "held-out" if split == "eval" else "training"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What is looked for. reasons: of each pair by its number; in_row: the numbers of all pairs of
    a row, in order; places: the rows; now: where each data file lies by now; source: all data, as
    it lies now; columns: what the written rows call the columns that redpencil reads."""

    reasons: Mapping[int, Mapping[str, Any]]
    in_row: Mapping[Place, Sequence[int]]
    places: Set[Place]
    now: Mapping[str, str]
    source: Source
    columns: Mapping[str, str]

    def others(self, place: Place) -> int:
        return sum(number not in self.reasons for number in self.in_row[place])

    @property
    def narrows(self) -> bool:
        """Whether of a row with several responses only some pairs are wanted. One judgement is
        taken for a whole file, so that then every row names its comparisons."""
        ranked = any(part.shape.kind == "ranked" for part in self.source.parts)
        return ranked and any(map(self.others, self.in_row))


def _wanted(
    pairs: Sequence[PairHistory],
    in_row: Mapping[Place, Sequence[int]],
    origin: RunData,
    recipe: Recipe,
) -> _Wanted:
    """Raises DataError where the data are not those of the run."""
    places = set(in_row)
    now = {file: origin.path_of(file) for file in dict.fromkeys(file for file, _ in places)}
    source = Source(origin.spec_now, "preference", recipe.columns)
    if source.joined:
        now |= {file: origin.path_of(file) for file in origin.files}
        places = _with_counterparts(places, source, origin, now)
        now |= {file: origin.path_of(file) for file, _ in places if file not in now}
    if len({source.part_of(path) for path in now.values()}) > 1:
        _ = source.only  # rows of different shapes cannot be one file
    # A CSV file's text becomes values where it is known what they are: under our names.
    ours = any(format_of(path) == "csv" for path in now.values())
    return _Wanted(
        reasons={p.pair: _reason(p) for p in pairs},
        in_row=in_row,
        places=places,
        now=now,
        source=source,
        columns={} if ours else recipe.columns,
    )


def _rows(wanted: _Wanted, narrowed: list[Place]) -> Iterator[dict[str, Any]]:
    """These rows, file by file in order. narrowed: takes those that were cut to their pairs."""
    left = set(wanted.places)
    narrows = wanted.narrows
    names = ColumnMap(None if wanted.columns else wanted.source.columns)
    for file in sorted({file for file, _ in left}):
        for raw in attempt_rows(wanted.now[file]):
            place = (file, raw.origin.row)
            if place not in left:
                continue
            if isinstance(raw.cells, DataError):
                raise raw.cells
            left.remove(place)
            written = wanted.source.ours(raw) if narrows else raw
            assert isinstance(written.cells, dict), written.cells
            row = written.cells if written.ours else mapped(raw, names)
            numbers = wanted.in_row.get(place, ())
            kept = [at for at, number in enumerate(numbers) if number in wanted.reasons]
            if narrows:
                compared = _comparisons(raw, wanted.source)
                if len(compared) == len(numbers):
                    compared = [compared[at] for at in kept]
                    narrowed.append(place)
                row = {**row, wanted.columns.get("comparisons", "comparisons"): compared}
            why = [wanted.reasons[numbers[at]] for at in kept] or [{"kind": COUNTERPART}]
            yield {**row, REASON: [*_earlier(row, raw.origin), *why]}
    if left:
        file, number = min(left)
        raise DataError(f"{wanted.now[file]} has no row {number}: it is not the run's data")


def _comparisons(raw: RawRow, source: Source) -> list[Any]:
    """What training compares in a row of several responses, in its order. The run may have fewer:
    two texts can become the same tokens."""
    read = source.read(0, raw, ColumnMap(source.columns))
    if read.row is None or read.record is None or read.part is None:
        why = read.problem.detail if read.problem else "it is no record"
        raise DataError(f"{raw.origin} is not the row that the run had: {why}")
    places = read.part.reader.places(read.row)
    used = {(places[c.chosen], places[c.rejected]) for c in read.record.comparisons}
    part = read.part
    listed = written_out(read.row, part.layout.by, len(read.row.sequence(part.shape.columns[1])))
    return [item for item in listed if (item["chosen"], item["rejected"]) in used]


def _earlier(row: Mapping[str, Any], origin: Origin) -> list[Any]:
    """The reasons that an earlier round wrote in a row."""
    said = row.get(REASON)
    if said is None:
        return []
    if isinstance(said, list) and all(isinstance(r, Mapping) and "kind" in r for r in said):
        return said
    raise DataError(
        f'{origin}: a column "{REASON}" of its own, which --again would write over; rename it'
    )


def _with_counterparts(
    places: Set[Place], source: Source, origin: RunData, now: Mapping[str, str]
) -> set[Place]:
    """All rows that were joined by prompt with these: a label alone makes no pair."""
    named = {path: file for file, path in now.items()}
    read = load_records(source.files, purpose="preference", columns=source.columns)
    found = set(places)
    for origins in read.origins:
        group = {(named.get(o.file) or origin.name_of(o.file), o.row) for o in origins}
        found |= group if group & places else set()
    return found


def _reason(pair: PairHistory) -> dict[str, Any]:
    return {
        "kind": pair.kind,
        "split": pair.split,
        "pair": pair.pair,
        "first_step": pair.first_step,
        "first_margin": pair.first_margin,
        "last_step": pair.last_step,
        "last_margin": pair.last_margin,
        "weight": pair.weight,
        "looks": pair.looks,
    }


def _write(rows: Iterable[Mapping[str, Any]], out: Path) -> int:
    """Write rows as JSON lines, whole or not at all; values that JSON lacks as text."""
    count = 0
    try:
        with whole_file(out) as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                count += 1
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}") from error
    return count


def print_again(result: Again) -> None:
    """What was written, and how to go on."""
    kind, named = result.kind, _named(result.split)
    others = f"; {result.others:,} other pairs stand in the same rows" if result.others else ""
    say(f"{result.out}: {result.rows:,} rows with {result.pairs:,} {kind} {named} pairs{others}")
    say(f'          the column "{REASON}" says of each row why it is there')
    if result.split == "eval":
        warn("these pairs were held out: once trained on, they can judge no model any more")
    if result.unchecked:
        warn("the run did not keep what its data were: rows were taken by number, unchecked")
    say(f"next      {' '.join(_next_command(result))}")


HOW = (
    *("loss", "beta", "label_smoothing", "alpha", "centring"),
    *(
        "lora_rank",
        "lora_alpha",
        "batch_size",
        "learning_rate",
        "optimizer",
        "weight_decay",
        "schedule",
    ),
    *("max_grad_norm", "max_length"),
)
"""Options that say how a run trained, whatever its data; the next round trains likewise."""


def _next_command(result: Again) -> Iterator[str]:
    """The words of a command that trains on what was written."""
    recipe = result.recipe
    yield f"redpencil {recipe.stage} --model {shlex.quote(str(result.run / 'model'))}"
    yield f"--data {shlex.quote(str(result.out))}"
    if result.columns:
        given = ",".join(f"{ours}={yours}" for ours, yours in result.columns.items())
        yield f"--columns {shlex.quote(given)}"
    fields = type(recipe).model_fields
    usual = {"lora_alpha": 2.0 * recipe.lora_rank, "label_smoothing": 0.0}
    for name in HOW:
        if name in fields:
            value = getattr(recipe, name)
            if value not in (None, fields[name].default, usual.get(name)):
                yield f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
    yield "--out NEXT_RUN"
