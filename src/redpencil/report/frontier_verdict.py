"""The frontier in words: how near DPO comes to the optimum, who is above whom, and the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redpencil.intervals import Z95
from redpencil.report.verdict import Figure, Tone
from redpencil.report.wording import percent, plain

GOOD = 0.9
"""Share of the optimum's gain from which on a method is said to reach it."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FrontierVerdict:
    tone: Tone
    headline: str
    sentences: tuple[str, ...]
    figures: tuple[Figure, ...]


def judge_frontier(content: Row) -> FrontierVerdict:
    """The verdict on a frontier, from what its page shows."""
    labels = {m["name"]: m["label"] for m in content["methods"]}
    rows = {row["method"]: row["at"] for row in content["comparison"]}
    level = _level(rows)
    sentences = []
    if level is None:
        return FrontierVerdict("unclear", "Nobody moved far enough to compare", (), ())
    standing = _standing(rows, level)
    kl = f"a KL of {rows['optimum'][level]['kl']:g} nats"
    sentences.append(
        f"At {kl}, the exact optimum gains {plain(_gain(rows['optimum'][level], content))} in true "
        f"reward over the reference. Of that, " + _listed(standing, labels) + "."
    )
    if "dpo" in rows and len(rows) > 2:
        sentences.append(_dominance(rows, labels))
    headline, tone = _headline(rows, standing, labels, level)
    figures = tuple(
        Figure(labels[name], percent(cell["share"]), f"true reward {plain(cell['reward'])}", "")
        for name, cell in standing[:4]
    )
    return FrontierVerdict(tone, headline, tuple(sentences), figures)


def _level(rows: Mapping[str, Sequence[Row | None]]) -> int | None:
    """The largest KL with a trusted optimum that DPO reaches; where DPO was not run or does not
    get anywhere, that most methods reach."""

    def reached(level: int) -> int:
        return sum(at[level] is not None for name, at in rows.items() if name != "optimum")

    trusted = [i for i, cell in enumerate(rows["optimum"]) if cell is not None and cell["trusted"]]
    known = [i for i in trusted if "dpo" in rows and rows["dpo"][i] is not None]
    if known:
        return known[-1]
    return max((i for i in trusted if reached(i)), key=lambda i: (reached(i), i), default=None)


def _standing(rows: Mapping[str, Sequence[Row | None]], level: int) -> list[tuple[str, Row]]:
    """Methods that reach a KL, the best first."""
    found = [(name, at[level]) for name, at in rows.items() if name != "optimum"]
    reached = [(name, cell) for name, cell in found if cell is not None]
    return sorted(reached, key=lambda pair: -pair[1]["share"])


def _gain(cell: Row, content: Row) -> float:
    return float(cell["reward"] - content["reference"]["reward"])


def _listed(standing: Sequence[tuple[str, Row]], labels: Mapping[str, str]) -> str:
    parts = [f"{labels[name]} reaches {percent(cell['share'])}" for name, cell in standing]
    parts = [parts[0], *(part.replace(" reaches ", " ") for part in parts[1:])]
    return ", ".join(parts)


def _headline(
    rows: Mapping[str, Sequence[Row | None]],
    standing: Sequence[tuple[str, Row]],
    labels: Mapping[str, str],
    level: int,
) -> tuple[str, Tone]:
    name = "dpo" if "dpo" in dict(standing) else standing[0][0]
    cell = dict(standing)[name]
    error = Z95 * (cell.get("share_stderr") or 0.0)
    tone: Tone = "good" if cell["share"] - error >= GOOD else "unclear"
    optimum = rows["optimum"][level]
    assert optimum is not None
    return (
        f"{labels[name]} gets {percent(cell['share'])} of what is possible at "
        f"{optimum['kl']:g}\u00a0nats",
        tone,
    )


def _dominance(rows: Mapping[str, Sequence[Row | None]], labels: Mapping[str, str]) -> str:
    """What the paper found for DPO, and whether it is so here, beyond two standard errors."""
    above, level_with, below = [], [], []
    for name, at in rows.items():
        if name in ("optimum", "dpo"):
            continue
        both = [(d, c) for d, c in zip(rows["dpo"], at, strict=True) if d and c]
        if not both:
            continue
        clear = [_clearly(d, c) for d, c in both]
        if 1 in clear and -1 not in clear:
            above.append(labels[name])
        elif -1 in clear and 1 not in clear:
            below.append(labels[name])
        else:
            level_with.append(labels[name])
    parts = []
    for names, said in (
        (above, "lies above {}"),
        (level_with, "cannot be told from {} or crosses it"),
        (below, "lies below {}"),
    ):
        if names:
            parts.append(said.format(_and(names)))
    told = "; it ".join(parts) if parts else "cannot be compared with any other method"
    return (
        "In the paper's figure, DPO's frontier lies above all others, PPO with the true reward "
        f"included. Here, where differences exceed two standard errors, DPO {told}."
    )


def _clearly(one: Row, other: Row) -> int:
    """1 where the first is above the second by more than two standard errors, -1 below, else 0."""
    difference = one["reward"] - other["reward"]
    error = (one["stderr"] ** 2 + other["stderr"] ** 2) ** 0.5
    if abs(difference) <= 2 * error:
        return 0
    return 1 if difference > 0 else -1


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{'; '.join(names[:-1])} and {names[-1]}"
