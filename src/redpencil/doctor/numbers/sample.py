"""A sample of the rows: bounded in characters, and the same for the same rows in any order."""

from dataclasses import dataclass

from redpencil.doctor.view import View

PAIRS = 10_000
CHARACTERS = 20_000_000
LONGEST = 8_000
"""Characters of a response that are kept."""
SIDES = 16
"""Comparisons of one row that are kept."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One comparison. row: which row it belongs to, counted as they came."""

    prompt_hash: int
    row: int
    chosen: str
    rejected: str


class PairSample:
    """Comparisons of the prompts whose hashes are smallest: whole prompts, each equally likely.

    Memory: at most PAIRS comparisons and CHARACTERS characters, and one row more.
    """

    def __init__(self, pairs: int = PAIRS, characters: int = CHARACTERS) -> None:
        self.pairs = pairs
        self.characters = characters
        self.complete = True
        """Nothing was left out."""
        self._below = 2**64
        self._kept: list[Sampled] = []
        self._held = 0
        self._rows = 0

    def see(self, row: View) -> None:
        self._rows += 1
        if row.prompt_hash >= self._below or not row.is_text:
            return
        stride = -(-len(row.pairs) // SIDES) or 1
        for chosen, rejected in list(row.sides())[::stride]:
            pair = Sampled(row.prompt_hash, self._rows, chosen[:LONGEST], rejected[:LONGEST])
            self._kept.append(pair)
            self._held += _size(pair)
        while self._too_many():
            self.complete = False
            self._below //= 2
            self._kept = [p for p in self._kept if p.prompt_hash < self._below]
            self._held = sum(map(_size, self._kept))

    def _too_many(self) -> bool:
        return len(self._kept) > self.pairs or self._held > self.characters

    def sampled(self) -> list[Sampled]:
        return self._kept


def _size(pair: Sampled) -> int:
    return len(pair.chosen) + len(pair.rejected)
