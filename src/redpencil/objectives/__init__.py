"""Objectives: pure functions from scores to losses, and the one table of them."""

from redpencil.objectives.pairwise import dpo_loss
from redpencil.objectives.statistics import kind_of_rewards, pair_statistics, rewards_of
from redpencil.objectives.table import OBJECTIVES, Objective, Option, bind, objective

__all__ = [
    "OBJECTIVES",
    "Objective",
    "Option",
    "bind",
    "dpo_loss",
    "kind_of_rewards",
    "objective",
    "pair_statistics",
    "rewards_of",
]
