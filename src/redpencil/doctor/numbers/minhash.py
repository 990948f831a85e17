"""MinHash in one pass over each set, and bands of it: rows that share a band may be alike.

One-permutation hashing: a hash says with some of its bits which of the places of the signature it
competes for, and with others how small it is; an empty place takes what another place has, chosen
by the place's own random order (A. Shrivastava, "Optimal densification for fast and accurate
minwise hashing", arXiv 1703.04664). The share of equal places estimates the Jaccard likeness of
the sets without bias.

BANDS bands of ROWS places: two rows of likeness J share a band with probability
1 - (1 - J^ROWS)^BANDS, which is 0.99 at 0.8 and 0.32 at 0.5.
"""

import numpy as np

from redpencil.doctor.numbers.shingles import mix

BANDS, ROWS = 12, 5
PLACES = BANDS * ROWS
EMPTY = np.uint32(0xFFFFFFFF)

_RNG = np.random.default_rng(1703_04664)
_ORDER = np.array([_RNG.permutation(PLACES) for _ in range(PLACES)])
"""(PLACES, PLACES): where an empty place looks for a value, one after another."""
_BAND_MULTIPLIERS = _RNG.integers(2**63, size=(BANDS, ROWS), dtype=np.uint64) | 1


def signatures(hashes: np.ndarray, owner: np.ndarray, rows: int) -> np.ndarray:
    """(rows, PLACES) uint32 from the shingle hashes of many rows (owner: (H,) row of each).

    A row without shingles has only EMPTY.
    """
    place = ((hashes >> np.uint64(32)) * np.uint64(PLACES)) >> np.uint64(32)
    value = np.minimum(hashes & np.uint64(0xFFFFFFFF), EMPTY - np.uint32(1)).astype(np.uint32)
    found = np.full(rows * PLACES, EMPTY, dtype=np.uint32)
    np.minimum.at(found, owner * PLACES + place.astype(np.int64), value)
    return _densified(found.reshape(rows, PLACES))


def _densified(found: np.ndarray) -> np.ndarray:
    dense = found.copy()
    row, place = np.nonzero(found == EMPTY)
    for attempt in range(PLACES):
        if not len(row):
            break
        source = _ORDER[place, attempt]
        value = found[row, source]
        dense[row, place] = value
        row, place = row[value == EMPTY], place[value == EMPTY]
    return dense


def band_keys(signature: np.ndarray) -> np.ndarray:
    """(rows, BANDS) uint64, one key for each band; 0 for rows without shingles."""
    rows = len(signature)
    bands = signature.reshape(rows, BANDS, ROWS).astype(np.uint64)
    keys = mix((bands * _BAND_MULTIPLIERS).sum(axis=2, dtype=np.uint64))
    keys[(signature == EMPTY).all(axis=1)] = 0
    return keys
