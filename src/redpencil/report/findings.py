"""What a check says: one finding, with its number and what to do."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["alarm", "worry", "fine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """key: stable name for tests and links. advice: "" where nothing needs doing. plot: id of the
    curve that shows it, "" where none does."""

    key: str
    severity: Severity
    title: str
    text: str
    advice: str = ""
    plot: str = ""
