"""The notebook's part of the page: which filters and columns it has, and its packed pairs."""

from typing import Any

from redpencil.report.diagnosis import suspected
from redpencil.report.entries import MOST_PAIRS, MOST_SUSPECTS, Entry, entries, wrong_first
from redpencil.report.packing import ROOMS, Room, pack_entries
from redpencil.report.rundata import RunData
from redpencil.report.starts import starts
from redpencil.report.wording import count

ON_PAPER = 10
"""Wrong pairs that are printed, and shown where the browser runs no script."""

KINDS = {
    "corrected": ("↗", "wrong at the first look, right now"),
    "broken": ("↘", "right at the first look, wrong now"),
    "stubborn": ("✕", "wrong at every look"),
    "right": ("✓", "right at the first look and now"),
    "undecided": ("·", "a tie now, never looked at, or back and forth"),
}
"""What can become of a pair: its sign, and in words."""

Content = dict[str, Any]


def notebook_content(run: RunData) -> Content:
    """Everything the template needs of the pairs; `pairs_packed` is "" where there are none."""
    found = entries(run)
    apart = None if run.starts_at_reference else starts(run)
    packed, room = pack_entries(found, apart) if found else ("", ROOMS[0])
    wrong = wrong_first(run.after)
    has_suspects = any(e.probability is not None for e in found)
    return {
        "pairs_packed": packed,
        "pairs_notes": _notes(run, found, room),
        "wrong": wrong[:ON_PAPER],
        "wrong_count": len(wrong),
        "kinds": _kinds(run),
        "suspected": suspected(run, min(len(run.suspects), MOST_SUSPECTS)),
        "shows": _shows(found, has_suspects),
        "splits": _splits(found),
        "sorts": _sorts(run, has_suspects),
        "cells": _cells(run, found),
    }


def _kinds(run: RunData) -> Content | None:
    """How many pairs of each split went which way."""
    if not run.histories:
        return None
    names = {"eval": "Held out", "train": "Training"}
    splits = [s for s in names if any(run.kinds.get(s, {}).values())]
    rows = [
        (kind, sign, words, [f"{run.kinds[s].get(kind, 0):,}" for s in splits])
        for kind, (sign, words) in KINDS.items()
        if any(run.kinds[s].get(kind) for s in splits)
    ]
    return {"names": [names[s] for s in splits], "rows": rows}


def _shows(found: list[Entry], has_suspects: bool) -> list[tuple[str, str, str]]:
    """Filters as (key, label, in words): wrong ones, the kinds that occur, all."""
    shows = [("wrong", "Wrong now", "ordered wrongly, or a tie")]
    kinds = {e.history.kind for e in found if e.history}
    shows += [(kind, kind.capitalize(), KINDS[kind][1]) for kind in KINDS if kind in kinds]
    if not kinds:
        shows.append(("right", "Right", "ordered correctly"))
    if has_suspects:
        shows.append(("suspect", "Suspect labels", "the label itself may be wrong"))
    return [*shows, ("all", "All", "every pair of this page")]


def _splits(found: list[Entry]) -> list[tuple[str, str]]:
    names = {"eval": "Held out", "train": "Training"}
    splits = [(s, name) for s, name in names.items() if any(e.pair.split == s for e in found)]
    return [*splits, ("all", "Both")] if len(splits) > 1 else []


def _sorts(run: RunData, has_suspects: bool) -> list[tuple[str, str]]:
    sorts = [("weight", "weight"), ("margin", "margin")]
    if run.histories:
        sorts += [("change", "change of margin"), ("turns", "turns")]
    if not run.is_reward:
        sorts += [("drift", "chosen moved"), ("driftRejected", "rejected moved")]
    sorts.append(("longer", "tokens longer"))
    if has_suspects:
        sorts.append(("probability", "probability of the label"))
    return [*sorts, ("place", "as stored")]


def _cells(run: RunData, found: list[Entry]) -> list[tuple[str, str, str, bool]]:
    """Columns as (cell, sort key or "", label, whether a phone leaves it out)."""
    cells = []
    if any(e.history and len(e.history.margins) > 1 for e in found):
        cells.append(("course", "change", "Course", True))
    cells += [("margin", "margin", "Margin", False), ("weight", "weight", "Weight", False)]
    if not run.is_reward:
        cells.append(("drift", "drift", "Chosen moved", True))
    return [*cells, ("longer", "longer", "Tokens longer", True)]


def _notes(run: RunData, found: list[Entry], room: Room) -> list[str]:
    notes = []
    total = len(run.after) + len(run.trained)
    if total > MOST_PAIRS:
        notes.append(
            f"{count(total, 'pair')} are known; the {MOST_PAIRS:,} pressed hardest are in this "
            "page, all of them in the run folder."
        )
    trained = sum(run.kinds.get("train", {}).values())
    if trained > len(run.trained) > 0:
        notes.append(
            f"Of {count(trained, 'training pair')}, {len(run.trained):,} are in this page: a "
            "sample. The numbers of all stand in pairs.parquet."
        )
    if room.rest < ROOMS[0].rest:
        hardest = count(room.worst, "hardest pair")
        notes.append(
            f"To keep this file small, texts are cut to {room.longest:,} characters in the "
            f"{hardest}, to {room.rest:,} in the others; whole ones stand in pairs.jsonl."
        )
    with_tokens = sum(e.tokens is not None for e in found)
    if with_tokens > room.views:
        notes.append(
            f"Of {count(with_tokens, 'pair')} with token views, the {room.views:,} pressed hardest "
            "have theirs in this page; all stand in tokens.parquet."
        )
    return notes
