"""Comparisons as columns: who they are, and what a measurement says of each of them at once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from redpencil.types import Comparison, Example, Origin


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparisons:
    """T comparisons, in order.

    pair: (T,) number of each among those of its data set. chosen, rejected: (T,) response indices.
    file, row: where each came from. length_chosen, length_rejected: (T,) scored tokens.
    """

    pair: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    file: list[str]
    row: np.ndarray
    length_chosen: np.ndarray
    length_rejected: np.ndarray

    def __len__(self) -> int:
        return len(self.pair)


def comparisons_of(numbered: Iterable[tuple[int, Example]]) -> Comparisons:
    """The comparisons of examples, each given with the number of its first comparison."""
    files: list[str] = []
    rows: list[tuple[int, ...]] = []
    for first, example in numbered:
        lengths = [int(np.count_nonzero(r.scored)) for r in example.responses]
        base = example.response_base
        for place, c in enumerate(example.comparisons):
            origin = origin_of(example, c)
            files.append(origin.file)
            ends = (base + c.chosen, base + c.rejected)
            at = (lengths[c.chosen], lengths[c.rejected])
            rows.append((first + place, *ends, origin.row, *at))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 6).T
    return Comparisons(
        pair=columns[0],
        chosen=columns[1],
        rejected=columns[2],
        file=files,
        row=columns[3],
        length_chosen=columns[4],
        length_rejected=columns[5],
    )


def origin_of(example: Example, comparison: Comparison) -> Origin:
    """The row that a comparison came from: rows that share a prompt share an example."""
    return comparison.origin or example.responses[comparison.chosen].origin


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Valued:
    """What was measured of responses, (responses,) float32 each, by index.

    pi_logps: log-probabilities, of a reward model its rewards. rewards, rounding: what the
    objective holds each to be worth, and how far rounding reaches into it (`types.Rewards`).
    """

    pi_logps: np.ndarray
    rewards: np.ndarray
    rounding: np.ndarray


def pair_numbers(
    comparisons: Comparisons, valued: Valued, ref_logps: np.ndarray | None
) -> Mapping[str, np.ndarray]:
    """(T,) columns of comparisons. ref_logps: (responses,) by index; None for a reward model.

    The margin of a tie is 0, as a reward is that is rounding alone, so whoever reads them counts
    the same pairs as the metrics do. The weight is sigma(-margin), the force with which DPO's
    gradient presses the pair.
    """
    w, l = comparisons.chosen, comparisons.rejected  # noqa: E741  (the paper's y_l)
    rewards = np.where(np.abs(valued.rewards) <= valued.rounding, 0, valued.rewards)
    margin = valued.rewards[w] - valued.rewards[l]
    margin = np.where(np.abs(margin) <= valued.rounding[w] + valued.rounding[l], 0, margin)
    weight = 1.0 / (1.0 + np.exp(np.minimum(margin.astype(np.float64), 700.0)))
    columns = {
        "reward_chosen": rewards[w],
        "reward_rejected": rewards[l],
        "margin": margin,
        "weight": weight,
    }
    if ref_logps is None:
        return columns
    return columns | {
        "logp_chosen": valued.pi_logps[w],
        "logp_rejected": valued.pi_logps[l],
        "ref_logp_chosen": ref_logps[w],
        "ref_logp_rejected": ref_logps[l],
    }
