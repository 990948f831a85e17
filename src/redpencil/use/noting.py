"""What `redpencil note` shows: how the pairs of a run went, the worst of each kind, its health."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redpencil.errors import RunFolderError
from redpencil.notebook import Kind, Notebook, PairHistory, read_notebook
from redpencil.report.findings import Finding
from redpencil.report.health import health
from redpencil.report.rundata import read_run
from redpencil.use.note_texts import Texts, texts_of

SHOWN_KINDS: tuple[Kind, ...] = ("stubborn", "broken", "corrected")
"""Kinds of which pairs are shown where none is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A pair and its texts; None where these are no longer to be found."""

    history: PairHistory
    texts: Texts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """The notebook of one split. steps: those after which its pairs were measured (held-out) or
    in which they were used. looks: the most that a pair was looked at; unseen: pairs that never
    were. groups: for each kind the pairs shown. health: findings, worries first."""

    run: str
    split: str
    pairs: int
    steps: tuple[int, ...]
    looks: int
    unseen: int
    counts: Mapping[Kind, int]
    groups: Mapping[Kind, tuple[Entry, ...]]
    health: tuple[Finding, ...]
    damaged: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "split": self.split,
            "pairs": self.pairs,
            "counts": dict(self.counts),
            "shown": {k: [_entry_as_json(e) for e in g] for k, g in self.groups.items()},
            "health": [asdict(f) for f in self.health],
            "damaged": list(self.damaged),
        }


def note(
    run: Path,
    *,
    split: str = "eval",
    kind: Kind | None = None,
    top: int = 3,
    data: str | None = None,
) -> Note:
    """The notebook of a run, finished or not. data: where the run's data lie now, if moved.

    Raises RunFolderError where it has none, DataError where `data` is not what the run had.
    """
    told = read_run(run)
    notebook = read_notebook(run)
    if notebook is None or split not in notebook.sides:
        named = "held-out" if split == "eval" else "training"
        why = _why_none(notebook, split, str(told.recipe.get("stage", "")))
        raise RunFolderError(f"{run} has no {named} pairs in its notebook: {why}")
    side = notebook.sides[split]
    kinds = SHOWN_KINDS if kind is None else (kind,)
    chosen = {k: side.of_kind(k, top=top) for k in kinds}
    texts = texts_of(run, side, [h for group in chosen.values() for h in group], data)
    groups = {
        k: tuple(Entry(history=h, texts=texts.get(h.pair)) for h in group)
        for k, group in chosen.items()
    }
    return Note(
        run=str(run),
        split=split,
        pairs=len(side),
        steps=tuple(np.unique(side.rows.step).tolist()),
        looks=int(side.looks.max()),
        unseen=int((side.looks == 0).sum()),
        counts=side.counts,
        groups=groups,
        health=health(told),
        damaged=notebook.damaged,
    )


def _why_none(notebook: Notebook | None, split: str, stage: str) -> str:
    if stage in ("sft", "rl"):
        return f"a run of redpencil {stage} compares no pairs"
    if notebook is not None and notebook.damaged:
        return notebook.damaged[0]
    if notebook is not None and notebook.sides and split == "eval":
        return "nothing was held out"
    return "it has measured none yet, or an older redpencil trained it"


def _entry_as_json(entry: Entry) -> dict[str, Any]:
    prompt, chosen, rejected = entry.texts or (None, None, None)
    return {
        **asdict(entry.history),
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
    }
