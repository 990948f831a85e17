"""Objectives: pure functions from scores to losses, and the one table of them."""

from redpencil.objectives.pairwise import dpo_loss
from redpencil.objectives.statistics import pair_statistics
from redpencil.objectives.table import OBJECTIVES, Objective, Option, bind, objective

__all__ = [
    "OBJECTIVES",
    "Objective",
    "Option",
    "bind",
    "dpo_loss",
    "objective",
    "pair_statistics",
]
