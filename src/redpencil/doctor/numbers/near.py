"""Near duplicates: rows that say almost the same as another one, found by MinHash, then compared.

Nothing is claimed that was not compared: MinHash bands only propose pairs of rows (minhash.py).
Each part of the two rows (prompt, every response) must then be alike by itself, or a long prompt
would make pairs on the same prompt duplicates; and texts whose numbers differ are not alike, or
"12 apples" would be "13 apples".

Memory for R rows: 16 R bytes (where a row's text lies on disk; its hash), 40 R bytes for a moment
while one band is sorted, at most 8 MB of proposed pairs, and a block of about 60 MB that does not
grow. On disk, in the temporary folder, until the check ends: the texts, and 96 R bytes.
"""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from redpencil.doctor.findings import SHOWN_ROWS, Finding
from redpencil.doctor.numbers.minhash import BANDS, band_keys, signatures
from redpencil.doctor.numbers.shingles import CommonShingles, jaccard, normal, shingle_hashes
from redpencil.doctor.spool import Spool
from redpencil.doctor.tally import readable
from redpencil.doctor.view import View, hash_of
from redpencil.types import Origin

ALIKE = 0.8
"""Jaccard likeness from which two texts are called nearly the same."""

ENOUGH = 16
"""Shingles of its own that a text must have to be compared; shorter ones must be equal."""

BLOCK_ROWS, BLOCK_CHARACTERS = 2048, 500_000
NEIGHBOURS = 4
"""Rows that share a band are compared with the next few of them, in the order of the file: a band
that thousands share proposes thousands of pairs, not millions."""

MOST_COMPARED = 200_000
"""Pairs of rows compared; of more, those that share most bands."""

_NUMBERS = re.compile(r"\d+")
_Pair = tuple[int, int, float]


class Likeness:
    """Compares texts by the shingles that not many rows have."""

    def __init__(self, common: CommonShingles) -> None:
        self.common = common
        self._of = lru_cache(maxsize=4096)(common.of)

    def of(self, one: str, other: str) -> float:
        """1.0 for texts that differ in spaces and case only; 0.0 for texts too short to say, or
        with other numbers in them."""
        if one == other or normal(one) == normal(other):
            return 1.0
        if _NUMBERS.findall(one) != _NUMBERS.findall(other):
            return 0.0
        mine, theirs = self._of(one), self._of(other)
        if min(len(mine), len(theirs)) < ENOUGH:
            return 0.0
        return jaccard(mine, theirs)

    def of_all(self, ones: Sequence[str], others: Sequence[str]) -> float:
        """Of the parts that are least alike."""
        least = 1.0
        for one, other in zip(ones, others, strict=True):
            least = min(least, self.of(one, other))
            if least < ALIKE:
                return 0.0
        return least


class NearDuplicates:
    """The check; see the head of this file."""

    def __init__(self) -> None:
        self._spool = Spool(BANDS)
        self._common = CommonShingles()
        self._exact = array("Q")
        self._block: list[View] = []
        self._characters = 0

    def see(self, row: View) -> None:
        parts = (row.prompt, *row.responses)
        self._exact.append(hash_of("\0".join(parts)))
        self._spool.add(row.origin, parts)
        self._block.append(row)
        self._characters += sum(map(len, parts))
        if len(self._block) == BLOCK_ROWS or self._characters > BLOCK_CHARACTERS:
            self._sign()

    def _sign(self) -> None:
        """Band keys of a block: of the responses, or of the prompt where they say too little."""
        block, self._block, self._characters = self._block, [], 0
        rows = len(block)
        if not rows:
            return
        prompts, of_prompt = shingle_hashes([normal(row.prompt) for row in block])
        said, of_said = shingle_hashes([normal("\n".join(row.responses)) for row in block])
        self._common.learn(np.concatenate([prompts, said]), np.r_[of_prompt, of_said], rows)
        rare = self._common.rare(said)
        said, of_said = said[rare], of_said[rare]
        silent = np.bincount(of_said, minlength=rows) < ENOUGH
        by_prompt = self._common.rare(prompts) & silent[of_prompt]
        by_said = ~silent[of_said]
        owner = np.concatenate([of_prompt[by_prompt], of_said[by_said]])
        hashes = np.concatenate([prompts[by_prompt], said[by_said]])
        self._spool.add_columns(band_keys(signatures(hashes, owner, rows)))

    def findings(self, total: int) -> Iterable[Finding]:
        self._sign()
        try:
            proposed = self._proposed()
            alike, crossed = self._compare(proposed)
            compared_all = len(proposed) < MOST_COMPARED
            yield from self._alike(alike, total, compared_all)
            yield from self._crossed(crossed, total)
        finally:
            self._spool.close()

    def _proposed(self) -> np.ndarray:
        """(C, 2) row numbers that share a band, each pair once; exact copies stand back."""
        first = np.zeros(len(self._exact), dtype=bool)
        first[np.unique(np.frombuffer(self._exact, dtype=np.uint64), return_index=True)[1]] = True
        found = np.zeros(0, dtype=np.uint64)
        counts = np.zeros(0, dtype=np.int64)
        for band in range(BANDS):
            keys = self._spool.column(band)
            pairs = same_key_pairs(keys, np.flatnonzero(first & (keys != 0)))
            found, counts = _add(found, counts, pairs)
        return np.stack([found >> np.uint64(32), found & np.uint64(2**32 - 1)], axis=1)

    def _compare(self, proposed: np.ndarray) -> tuple[list[_Pair], list[_Pair]]:
        """Pairs that are alike, and pairs that would be if one had its labels the other way."""
        likeness = Likeness(self._common)
        read = lru_cache(maxsize=1024)(self._spool.read)
        alike, crossed = [], []
        for one, other in proposed.tolist():
            (_, mine), (_, theirs) = read(one), read(other)
            if len(mine) != len(theirs):
                continue
            if share := likeness.of_all(mine, theirs):
                alike.append((one, other, share))
            elif len(mine) == 3 and (share := _crossed(likeness, mine, theirs)):
                crossed.append((one, other, share))
        return alike, crossed

    def _alike(self, pairs: list[_Pair], total: int, compared_all: bool) -> Iterator[Finding]:
        if not pairs:
            return
        later = sorted({other for _, other, _ in pairs})
        at_least = "" if compared_all else "at least "
        yield Finding(
            key="near-duplicate",
            group="preference",
            severity="warning",
            title="Rows that say almost the same as an earlier one",
            text=f"{at_least}{len(later):,} of {total:,} rows say almost the same as an earlier "
            f"one: prompt and every response agree to {ALIKE:.0%} or more of the five-character "
            "pieces that few other rows have.",
            count=len(later),
            of=total,
            rows=self._origins(later),
            example=self._side_by_side(pairs[0]),
            why="What is there twice counts twice, and where the copies fall on both sides of the "
            "split, the evaluation is on training data.",
            advice="Keep one of each, or give them a weight column so that together they count "
            "as one.",
        )

    def _crossed(self, pairs: list[_Pair], total: int) -> Iterator[Finding]:
        if not pairs:
            return
        later = sorted({other for _, other, _ in pairs})
        yield Finding(
            key="near-both-ways",
            group="preference",
            severity="warning",
            title="Almost the same pair, labelled the other way",
            text=f"{len(later):,} of {total:,} rows prefer what an earlier row, almost the same "
            "in all else, rejects.",
            count=len(later),
            of=total,
            rows=self._origins(later),
            example=self._side_by_side(pairs[0]),
            why="The two pull in opposite directions, and at least one of them is wrong.",
            advice="Look at these rows and leave out, or turn round, the wrong one of each.",
        )

    def _origins(self, rows: Sequence[int]) -> tuple[Origin, ...]:
        return tuple(self._spool.read(row)[0] for row in rows[:SHOWN_ROWS])

    def _side_by_side(self, pair: _Pair) -> str:
        one, other, share = pair
        (here, mine), (there, theirs) = self._spool.read(one), self._spool.read(other)
        a, b = next(((a, b) for a, b in zip(mine, theirs, strict=True) if a != b), ("", ""))
        a, b = map(readable, around_difference(a, b))
        place = f"row {there.row}" if there.file == here.file else there
        return f"{here}: {a}; {place}: {b} (likeness {share:.2f})"


def _crossed(likeness: Likeness, mine: tuple[str, ...], theirs: tuple[str, ...]) -> float:
    """Likeness of a pair with the other one turned round; 0.0 where they are the same to the
    letter: that is told by another check, as the same comparison both ways."""
    prompt, chosen, rejected = theirs
    turned = (prompt, rejected, chosen)
    return 0.0 if mine == turned else likeness.of_all(mine, turned)


def same_key_pairs(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pairs (earlier << 32 | later) of the given rows whose keys are equal: each row with the next
    NEIGHBOURS that have its key. (C,) uint64."""
    kept = keys[rows]
    order = np.argsort(kept, kind="stable")
    kept, rows = kept[order], rows[order].astype(np.uint64)
    found = []
    for gap in range(1, NEIGHBOURS + 1):
        same = kept[gap:] == kept[:-gap]
        found.append(rows[:-gap][same] << np.uint64(32) | rows[gap:][same])
    return np.concatenate(found)


def _add(found: np.ndarray, counts: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs with the number of bands they share; of too many, those that share most."""
    both, place = np.unique(np.concatenate([found, pairs]), return_inverse=True)
    weights = np.concatenate([counts, np.ones(len(pairs), dtype=np.int64)])
    sums = np.bincount(place, weights=weights, minlength=len(both)).astype(np.int64)
    if len(both) > MOST_COMPARED:
        best = np.sort(np.argsort(-sums, kind="stable")[:MOST_COMPARED])
        both, sums = both[best], sums[best]
    return both, sums


def around_difference(one: str, other: str, width: int = 60) -> tuple[str, str]:
    """The two texts where they first differ, a few characters before it included."""
    pairs = enumerate(zip(one, other, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    from_ = max(0, at - 20)
    return one[from_ : from_ + width], other[from_ : from_ + width]
