"""How sure a share is."""

import math


def wilson_interval(share: float, count: int, z: float = 1.96) -> list[float]:
    """95 % Wilson score interval of a share of `count` independent trials."""
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return [max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)]
