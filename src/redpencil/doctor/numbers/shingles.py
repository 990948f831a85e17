"""Texts as sets of shingles (runs of five characters), many texts at once, and their likeness.

A. Broder, "On the resemblance and containment of documents" (1997): two texts are alike as their
sets of shingles are, by Jaccard: shared shingles over all that either has.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

SHINGLE = 5
"""Characters of a shingle. A changed word of five letters changes nine or ten of them."""

LONGEST = 20_000
"""Characters of a text that are looked at: the beginning says enough, and bounds the memory."""

COMMON_SHARE = 0.1
"""Shingles that a larger share of the rows have are the language's or a template's, not a row's:
they do not count. Else two questions in one long template would be near duplicates."""

COMMON_AT_LEAST = 20
"""Rows that must have a shingle before it can be called common."""

SAMPLED_ROWS = 256
"""Rows of a block whose shingles are counted to find the common ones."""

TABLE_BITS = 20
"""The common shingles are a table of 2^20 bits, by 20 bits of their hashes: a rare shingle is taken
for a common one about once in a hundred, in all texts alike."""

_PADDING = "\0" * (SHINGLE - 1)
_MULTIPLIERS = np.random.default_rng(20230529).integers(2**63, size=SHINGLE, dtype=np.uint64) | 1
_MIX = np.uint64(0x9E3779B97F4A7C15)


def normal(text: str) -> str:
    """Small letters, one kind of each character (Unicode NFC), one space for any white space."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text[:LONGEST].lower().replace("\0", " ").split())


_WORDLESS = re.compile(r"[\W_]+")


def bare(text: str) -> str:
    """Letters and digits only, for "the same but for spaces, case and punctuation"; texts without
    any are as `normal` makes them."""
    return _WORDLESS.sub(" ", normal(text)).strip() or normal(text)


def mix(hashes: np.ndarray) -> np.ndarray:
    """Spread uint64 hashes over all their bits."""
    hashes = (hashes ^ (hashes >> np.uint64(31))) * _MIX
    return hashes ^ (hashes >> np.uint64(29))


def shingle_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, owner) of all shingles of normalised texts: (H,) uint64 and (H,) int64 indices into
    `texts`. A text of L characters has L of them: the last four are its end."""
    flat = _PADDING.join(texts) + _PADDING
    codes = np.frombuffer(flat.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    count = len(codes) - SHINGLE + 1
    hashes = np.zeros(max(count, 0), dtype=np.uint64)
    for place, multiplier in enumerate(_MULTIPLIERS):
        hashes += codes[place : place + count] * multiplier
    real = codes[:count] != 0
    owner = np.repeat(np.arange(len(texts)), [len(t) for t in texts])
    return mix(hashes[real]), owner


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Likeness of two sorted arrays of distinct hashes; 1 for two empty ones."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    together = len(one) + len(other) - shared
    return shared / together if together else 1.0


class CommonShingles:
    """Which shingles many rows have, learned block by block."""

    def __init__(self) -> None:
        self.table = np.zeros(2**TABLE_BITS, dtype=bool)

    def learn(self, hashes: np.ndarray, owner: np.ndarray, rows: int) -> None:
        """Count the shingles of evenly spaced rows of a block."""
        stride = -(-rows // SAMPLED_ROWS) or 1
        sampled = owner % stride == 0
        place = _place(hashes[sampled])
        once = np.sort(owner[sampled].astype(np.uint64) << np.uint64(TABLE_BITS) | place)
        once = once[np.r_[True, once[1:] != once[:-1]]]
        counts = np.bincount(
            (once & np.uint64(2**TABLE_BITS - 1)).astype(np.int64), minlength=2**TABLE_BITS
        )
        self.table |= counts > max(COMMON_SHARE * -(-rows // stride), COMMON_AT_LEAST)

    def rare(self, hashes: np.ndarray) -> np.ndarray:
        """True where a shingle is not a common one."""
        return ~self.table[_place(hashes).astype(np.int64)]

    def of(self, text: str) -> np.ndarray:
        """The sorted, distinct rare shingles of a text as it stands in the data."""
        hashes, _ = shingle_hashes([normal(text)])
        return np.unique(hashes[self.rare(hashes)])


def _place(hashes: np.ndarray) -> np.ndarray:
    return hashes & np.uint64(2**TABLE_BITS - 1)
