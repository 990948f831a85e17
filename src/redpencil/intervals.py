"""How sure a number is: where rounding ends, and 95 % intervals of shares."""

import math

Z95 = 1.959964
"""Two-sided 95 % point of the normal distribution."""

ROUNDING = 1e-6
"""Relative difference between the same log-probability scored in two ways (measured: up to 1e-6
over a thousand tokens). A lead below it is a tie, wherever pairs are ordered."""


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """95 % interval of a share seen in `count` independent trials (Wilson 1927)."""
    assert -1e-9 <= share <= 1 + 1e-9 and count > 0, (share, count)
    share = min(max(share, 0.0), 1.0)  # a mean of ones is one but for rounding
    z2 = Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)
