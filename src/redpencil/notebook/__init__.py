"""The wrong-answer notebook: what became of each pair over training."""

from redpencil.notebook.history import (
    KINDS,
    Histories,
    Kind,
    Notebook,
    PairHistory,
    read_notebook,
)
from redpencil.notebook.parts import measured_pairs
from redpencil.notebook.tokens import TokenView, read_tokens
from redpencil.notebook.trends import Moment, Trend, trends

__all__ = [
    "KINDS",
    "Histories",
    "Kind",
    "Moment",
    "Notebook",
    "PairHistory",
    "TokenView",
    "Trend",
    "measured_pairs",
    "read_notebook",
    "read_tokens",
    "trends",
]
