"""Figures of points for reward models: calibration, and rewards against length."""

from itertools import pairwise

from redpencil.report.estimates import mean
from redpencil.report.figures import Figure
from redpencil.report.rundata import Row, RunData, mapping, number
from redpencil.report.wording import count, nats, short

MOST_POINTS = 1500
"""Responses drawn; of more, this many at even distances."""


def points(run: RunData) -> list[Figure]:
    """Those that the run has the numbers for."""
    return [f for f in (calibration(run), against_length(run)) if f is not None]


def calibration_bins(run: RunData) -> list[Row]:
    """Bins of the summary that hold a prediction, an observation and a count."""
    bins = mapping(run.summary or {}, "calibration").get("bins")
    rows = [b for b in bins if isinstance(b, dict)] if isinstance(bins, list) else []
    wanted = ("predicted", "observed", "pairs")
    return [b for b in rows if all(number(b, name) is not None for name in wanted)]


def calibration(run: RunData) -> Figure | None:
    """How often the answer with the higher reward was preferred, by how sure the model was."""
    rows = calibration_bins(run)
    if not rows:
        return None
    return {
        "id": "calibration",
        "kind": "points",
        "title": "Calibration",
        "explained": "Of each held-out pair, the answer with the higher reward: how sure the model "
        "was that it is preferred, σ(reward lead), and how often it was. On the dashed line the "
        "model is as right as it is sure; below it, over-confident. Larger dots are more pairs.",
        "axes": ["predicted probability", "share preferred"],
        "x": [number(b, "predicted") for b in rows],
        "y": [number(b, "observed") for b in rows],
        "size": [number(b, "pairs") for b in rows],
        "diagonal": [0.5, 1.0],
        "columns": ["predicted", "preferred", "pairs"],
        "rows": [
            [
                short(number(b, "predicted")),
                short(number(b, "observed")),
                count(number(b, "pairs") or 0, "pair"),
            ]
            for b in rows
        ],
    }


def responses(run: RunData) -> list[tuple[int, float]]:
    """(length in tokens, reward) of every different held-out response."""
    seen: dict[tuple[str, str], tuple[int, float]] = {}
    for pair in run.after:
        for text, length, reward in (
            (pair.chosen, pair.length_chosen, pair.reward_chosen),
            (pair.rejected, pair.length_rejected, pair.reward_rejected),
        ):
            if length is not None and reward is not None:
                seen[pair.prompt, text] = (length, reward)
    return list(seen.values())


def against_length(run: RunData) -> Figure | None:
    """Every held-out response by its length and its reward."""
    known = responses(run)
    if not run.is_reward or len(known) < 10:
        return None
    thirds = _thirds(sorted(known))
    shown = known[:: -(-len(known) // MOST_POINTS)]
    return {
        "id": "length",
        "kind": "points",
        "title": "Reward against length",
        "explained": "Each dot is a held-out answer. A slope means that the model pays for length, "
        "whether or not length made the answers better.",
        "axes": ["tokens", "reward"],
        "x": [length for length, _ in shown],
        "y": [float(f"{reward:.5g}") for _, reward in shown],
        "size": None,
        "diagonal": None,
        "columns": ["answers", "tokens", "mean reward"],
        "rows": [
            [
                name,
                f"{group[0][0]:,} to {group[-1][0]:,}",
                nats(mean([reward for _, reward in group])),
            ]
            for name, group in zip(
                ("shortest third", "middle", "longest third"), thirds, strict=True
            )
        ],
    }


def _thirds(ordered: list[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    cuts = [round(i * len(ordered) / 3) for i in range(4)]
    return [ordered[a:b] for a, b in pairwise(cuts)]
