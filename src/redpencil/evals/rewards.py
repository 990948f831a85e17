"""Measurements of a reward model: calibration, and what length explains."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from redpencil.types import Example

BINS = 10


def calibration(
    margins: np.ndarray, probabilities: np.ndarray, *, bins: int = BINS
) -> dict[str, Any]:
    """Predicted against observed preference of T comparisons, and the expected calibration error.

    margins: (T,) r_w - r_l. probabilities: (T,) how sure the labels are that chosen wins. Of each
    pair the response with the higher reward is looked at: it is predicted to be preferred with
    p = sigma(|margin|), and was with the label's probability (one half in a tie). The error is the
    gap between the two means of a bin, averaged over the bins by their pairs (Naeini et al. 2015).
    """
    assert margins.shape == probabilities.shape, (margins.shape, probabilities.shape)
    predicted = 1.0 / (1.0 + np.exp(-np.abs(margins)))
    observed = np.where(margins > 0, probabilities, 1.0 - probabilities)
    observed = np.where(margins == 0, 0.5, observed)
    edges = np.linspace(0.5, 1.0, bins + 1)
    which = np.clip(np.digitize(predicted, edges) - 1, 0, bins - 1)
    rows = []
    for b in range(bins):
        inside = which == b
        if inside.any():
            rows.append(
                {
                    "low": float(edges[b]),
                    "high": float(edges[b + 1]),
                    "pairs": int(inside.sum()),
                    "predicted": float(predicted[inside].mean()),
                    "observed": float(observed[inside].mean()),
                }
            )
    error = sum(r["pairs"] * abs(r["predicted"] - r["observed"]) for r in rows) / len(margins)
    return {"expected_error": error, "bins": rows}


def length_correlation(rewards: np.ndarray, lengths: np.ndarray) -> float | None:
    """Pearson correlation of rewards with lengths in tokens; None where one does not vary."""
    if len(rewards) < 2 or np.ptp(rewards) == 0 or np.ptp(lengths) == 0:
        return None
    return float(np.corrcoef(rewards.astype(np.float64), lengths.astype(np.float64))[0, 1])


def reward_findings(examples: Sequence[Example], rewards: np.ndarray) -> dict[str, Any]:
    """What `summary.json` and `eval` say beside the means: calibration and length.

    rewards: (responses,) by response index. {} without comparisons.
    """
    pairs = [(e, c) for e in examples for c in e.comparisons]
    if not pairs:
        return {}
    chosen, rejected = (
        rewards[[e.response_base + getattr(c, side) for e, c in pairs]].astype(np.float64)
        for side in ("chosen", "rejected")
    )
    lengths = np.array([r.scored.sum() for e in examples for r in e.responses])
    probabilities = np.array([c.probability for _, c in pairs])
    return {
        "calibration": calibration(chosen - rejected, probabilities),
        "length_correlation": length_correlation(rewards, lengths),
    }
