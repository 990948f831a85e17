"""The next round's data: the rows of the pairs that a run has wrong, as they stood in its files."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redpencil.console import say, warn
from redpencil.data.columns import ColumnMap
from redpencil.data.formats import format_of
from redpencil.data.records import load_records, records_from_rows
from redpencil.data.sources import attempt_rows, mapped
from redpencil.errors import DataError, RunFolderError
from redpencil.folders.datafiles import same_file
from redpencil.folders.run import RunFolder
from redpencil.folders.targets import run_recipe
from redpencil.notebook import Kind, PairHistory, read_notebook
from redpencil.recipes.stages import Recipe

Place = tuple[str, int]
"""A data file, as the run calls it, and a row of it."""

REASON = "notebook"
"""The column that says why a row is there. Training names it as one that it does not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What was written. pairs: of the kind that was asked for; others: pairs of other kinds that
    stand in the same rows. unchecked: nothing says whether the data are those of the run."""

    out: Path
    run: Path
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
    notebook = read_notebook(run)
    if notebook is None or split not in notebook.sides:
        raise RunFolderError(f"{run} has no {_named(split)} pairs in its notebook (pairs.parquet)")
    side = notebook.sides[split]
    pairs = side.of_kind(kind)
    if not pairs:
        raise RunFolderError(
            f"{run} has no {kind} {_named(split)} pairs, so there is nothing to write; "
            f"redpencil note {run} --split {split} shows what there is"
        )
    facts = RunFolder(run).read("data.json")
    hashes = facts.get("files", {})
    spec = recipe.data if split == "train" or recipe.eval_data is None else recipe.eval_data
    joined = "joined by prompt" in str(facts.get("shape"))
    now = _where_now(pairs, spec, data, hashes)
    in_row = side.by_row(pairs)
    reasons = {p.pair: _reason(p) for p in pairs}
    wanted = _Wanted(reasons=reasons, in_row=in_row, now=now)
    places = set(in_row)
    if joined:
        places = _with_counterparts(places, data or spec, recipe, now)
    narrowed: list[Place] = []
    written = _write(_rows(recipe, wanted, places, narrowed), out)
    return Again(
        out=out,
        run=run,
        split=split,
        kind=kind,
        rows=written,
        pairs=len(pairs),
        others=sum(wanted.others(place) for place in in_row.keys() - set(narrowed)),
        columns=_still_needed(recipe.columns, now),
        unchecked=not hashes,
    )


def _still_needed(columns: Mapping[str, str], now: Mapping[str, str]) -> Mapping[str, str]:
    """The rows of CSV files are under our names already."""
    return {} if all(format_of(path) == "csv" for path in now.values()) else columns


def _named(split: str) -> str:
    return "held-out" if split == "eval" else "training"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What is looked for. reasons: of each pair by its number; in_row: the numbers of all pairs of
    a row, in order; now: where each data file lies by now."""

    reasons: Mapping[int, Mapping[str, Any]]
    in_row: Mapping[Place, Sequence[int]]
    now: Mapping[str, str]

    def others(self, place: Place) -> int:
        return sum(number not in self.reasons for number in self.in_row[place])


def _rows(
    recipe: Recipe, wanted: _Wanted, places: set[Place], narrowed: list[Place]
) -> Iterator[dict[str, Any]]:
    """These rows, file by file in order. narrowed: takes those that were cut to their pairs."""
    left = set(places)
    for file in sorted({file for file, _ in left}):
        for raw in attempt_rows(wanted.now[file]):
            place = (file, raw.origin.row)
            if place not in left:
                continue
            if isinstance(raw.cells, DataError):
                raise raw.cells
            left.remove(place)
            # A CSV file's text becomes values where it is known what they are: under our names.
            row = mapped(raw, ColumnMap(recipe.columns if raw.csv else None))
            numbers = wanted.in_row.get(place, ())
            why = [wanted.reasons[n] for n in numbers if n in wanted.reasons]
            kept = [at for at, n in enumerate(numbers) if n in wanted.reasons]
            if len(kept) < len(numbers):
                compared = _comparisons(mapped(raw, ColumnMap(recipe.columns)), len(numbers))
                if compared is not None:
                    row = {**row, "comparisons": [compared[at] for at in kept]}
                    narrowed.append(place)
            yield {**row, REASON: why or [{"kind": "counterpart"}]}
    if left:
        file, number = min(left)
        raise DataError(f"{wanted.now[file]} has no row {number}: it is not the run's data")


def _comparisons(row: Mapping[str, Any], count: int) -> list[Any] | None:
    """A row's comparisons in the order of its pairs, as a row may name them; None where they cannot
    be told apart, as when a response was left out."""
    if row.get("comparisons") is not None:
        given = row["comparisons"]
        return list(given) if len(given) == count else None
    records = records_from_rows([row], purpose="preference").records
    if len(records) != 1 or len(records[0].responses) != len(row.get("responses") or ()):
        return None
    compared = [[c.chosen, c.rejected] for c in records[0].comparisons]
    return compared if len(compared) == count else None


def _with_counterparts(
    places: Iterable[Place], spec: str, recipe: Recipe, now: Mapping[str, str]
) -> set[Place]:
    """All rows that were joined by prompt with these: a label alone makes no pair."""
    named = {path: file for file, path in now.items()}
    read = load_records(spec, purpose="preference", columns=recipe.columns or None)
    wanted = set(places)
    found: set[Place] = set()
    for origins in read.origins:
        group = {(named.get(o.file, o.file), o.row) for o in origins}
        found |= group if group & wanted else set()
    return found | wanted


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


def _where_now(
    pairs: Iterable[PairHistory], spec: str, moved_to: str | None, hashes: Mapping[str, str]
) -> dict[str, str]:
    """The path of each data file by now; the name itself of a data set on the Hub."""

    def place(file: str) -> str:
        on_the_hub = file == spec and format_of(file) is None
        return file if on_the_hub else str(same_file(file, moved_to, hashes))

    return {file: place(file) for file in dict.fromkeys(p.file for p in pairs)}


def _write(rows: Iterable[Mapping[str, Any]], out: Path) -> int:
    """Write rows as JSON lines, whole or not at all; values that JSON lacks as text."""
    scratch = out.with_name(f".{out.name}.partial")
    count = 0
    try:
        with scratch.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                count += 1
        os.replace(scratch, out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        scratch.unlink(missing_ok=True)
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
    given = ",".join(f"{ours}={yours}" for ours, yours in result.columns.items())
    columns = f" --columns {given}" if given else ""
    say(
        f"next      redpencil dpo --model {result.run}/model --data {result.out}{columns} "
        "--out NEXT_RUN"
    )
