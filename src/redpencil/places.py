"""Where redpencil keeps what it could make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$REDPENCIL_CACHE, or ~/.cache/redpencil: reference log-probabilities, what was found out
    about this machine, what was compiled for it."""
    named = os.environ.get("REDPENCIL_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "redpencil"
