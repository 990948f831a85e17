"""Prompts that are both in the training data and in --eval-data: equal, nearly equal, or alike.

Equal ones training sets aside by itself ("prompt is in the evaluation data"); those that differ in
spaces, capitals or punctuation, and near duplicates (see near.py), it would train on.

Memory for E evaluation rows: 120 E bytes, and a block of rows that does not grow. On disk, in the
temporary folder: the evaluation prompts.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from redpencil.doctor.findings import Finding
from redpencil.doctor.numbers.minhash import band_keys, signatures
from redpencil.doctor.numbers.near import (
    ALIKE,
    BLOCK_CHARACTERS,
    BLOCK_ROWS,
    ENOUGH,
    NEIGHBOURS,
    Likeness,
    around_difference,
)
from redpencil.doctor.numbers.shingles import CommonShingles, bare, normal, shingle_hashes
from redpencil.doctor.spool import Spool
from redpencil.doctor.tally import Kind, Tally, readable, rows_of
from redpencil.doctor.view import View, as_text, hash_of
from redpencil.types import Content, Origin

Prompt = tuple[Origin, str]

SAME = Kind(
    key="prompt-in-evaluation",
    group="statistics",
    severity="warning",
    title="Prompts that are in the evaluation data",
    why="An evaluation on prompts that were trained on says too much good.",
    advice="Training leaves these rows out where --eval-data names that file; before any other "
    "evaluation on it, take them out.",
)
NEARLY = Kind(
    key="prompt-nearly-in-evaluation",
    group="statistics",
    severity="warning",
    title="Prompts that are nearly in the evaluation data",
    why="To a model it is the same question, but training keeps these rows: it compares prompts "
    "letter by letter.",
    advice="Take these rows out of the training data.",
)


class PromptOverlap:
    """A text check: prompts of the training rows, looked up among those of the evaluation."""

    def __init__(self, evaluation: Iterable[tuple[Origin, Content]]) -> None:
        self._spool = Spool(0)
        self._common = CommonShingles()
        exact, bares, keys = [], [], []
        prompts = ((origin, as_text(prompt)) for origin, prompt in evaluation)
        for block in _blocks(prompts):
            for origin, text in block:
                self._spool.add(origin, (text,))
                exact.append(hash_of(text))
                bares.append(hash_of(bare(text)))
            keys.append(self._keys(block))
        self._exact = _Lookup(np.array(exact, dtype=np.uint64))
        self._bare = _Lookup(np.array(bares, dtype=np.uint64))
        self._bands = [_Lookup(column) for column in np.concatenate(keys).T] if keys else []
        self._block: list[Prompt] = []
        self._characters = 0
        self._same, self._nearly = Tally(), Tally()
        self._rows = 0
        self._likeness = Likeness(self._common)

    @property
    def prompts(self) -> int:
        """How many the evaluation has."""
        return len(self._spool)

    def _keys(self, block: list[Prompt]) -> np.ndarray:
        hashes, owner = shingle_hashes([normal(text) for _, text in block])
        self._common.learn(hashes, owner, len(block))
        rare = self._common.rare(hashes)
        hashes, owner = hashes[rare], owner[rare]
        keys = band_keys(signatures(hashes, owner, len(block)))
        keys[np.bincount(owner, minlength=len(block)) < ENOUGH] = 0
        return keys

    def see(self, row: View) -> None:
        self._block.append((row.origin, row.prompt))
        self._characters += len(row.prompt)
        if len(self._block) == BLOCK_ROWS or self._characters > BLOCK_CHARACTERS:
            self._look_up()

    def _look_up(self) -> None:
        block, self._block, self._characters = self._block, [], 0
        if not block:
            return
        self._rows += len(block)
        same = self._exact.first([hash_of(text) for _, text in block])
        alike = self._bare.first([hash_of(bare(text)) for _, text in block])
        keys = self._keys(block)
        for number, (origin, text) in enumerate(block):
            if same[number] >= 0:
                self._same.add(origin, f"{origin}: {readable(text[:100])}")
            elif alike[number] >= 0:
                self._add_nearly(origin, text, int(alike[number]), 1.0)
            else:
                self._compare(origin, text, keys[number])

    def _compare(self, origin: Origin, text: str, keys: np.ndarray) -> None:
        tried: set[int] = set()
        for band, key in zip(self._bands, keys, strict=True):
            for other in band.all(key) if key else ():
                if other not in tried:
                    tried.add(other)
                    _, (theirs,) = self._spool.read(other)
                    if (share := self._likeness.of(text, theirs)) >= ALIKE:
                        self._add_nearly(origin, text, other, share)
                        return

    def _add_nearly(self, origin: Origin, text: str, other: int, share: float) -> None:
        example = ""
        if self._nearly.wants_example:
            there, (theirs,) = self._spool.read(other)
            mine, theirs = map(readable, around_difference(text, theirs))
            example = f"{origin}: {mine}; {there}: {theirs} (likeness {share:.2f})"
        self._nearly.add(origin, example)

    def statistics(self) -> Mapping[str, Any]:
        return {
            "prompts_in_evaluation": self._same.count,
            "prompts_nearly_in_evaluation": self._nearly.count,
        }

    def findings(self, total: int) -> Iterable[Finding]:
        self._look_up()
        self._spool.close()
        if self._same.count:
            rows = rows_of(self._same.count, self._rows)
            text = f"{rows} have a prompt that is in the evaluation data as well."
            yield SAME.finding(self._same, self._rows, text)
        if self._nearly.count:
            text = (
                f"{rows_of(self._nearly.count, self._rows)} have a prompt that is in the "
                "evaluation data but for spaces, capitals and punctuation, or that agrees to "
                f"{ALIKE:.0%} or more of the five-character pieces with one that is."
            )
            yield NEARLY.finding(self._nearly, self._rows, text)


class _Lookup:
    """Which of many keys (E,) uint64 are equal to a given one. Memory: 16 E bytes."""

    def __init__(self, keys: np.ndarray) -> None:
        self._order = np.argsort(keys, kind="stable").astype(np.uint32)
        self._keys = keys[self._order]

    def first(self, wanted: list[int]) -> np.ndarray:
        """Number of the first equal key for each wanted one, -1 if there is none."""
        keys = np.array(wanted, dtype=np.uint64)
        place = np.searchsorted(self._keys, keys)
        found = np.full(len(keys), -1, dtype=np.int64)
        inside = np.flatnonzero(place < len(self._keys))
        inside = inside[self._keys[place[inside]] == keys[inside]]
        found[inside] = self._order[place[inside]]
        return found

    def all(self, key: np.uint64) -> list[int]:
        """Numbers of the first few equal keys."""
        at = int(np.searchsorted(self._keys, key))
        few = slice(at, at + NEIGHBOURS)
        return self._order[few][self._keys[few] == key].tolist()


def _blocks(prompts: Iterator[Prompt]) -> Iterator[list[Prompt]]:
    block: list[Prompt] = []
    characters = 0
    for prompt in prompts:
        block.append(prompt)
        characters += len(prompt[1])
        if len(block) == BLOCK_ROWS or characters > BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block
