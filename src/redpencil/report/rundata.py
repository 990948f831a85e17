"""A run folder's files as values: the only place of the report that touches the disk to read.

Runs are read while they train and after they were killed, so every file may be absent and the
last line of a growing one may be half a line. What is damaged otherwise is not guessed: it is
listed in `RunData.damaged` and the page says so.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from redpencil.errors import RunFolderError

Row = Mapping[str, Any]

MARKS = ("recipe.yaml", "metrics.jsonl", "summary.json")
"""A folder with any of these is a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One comparison of the evaluation set at one step. Rewards and margins are implicit ones,
    beta * (log pi - log pi_ref); log-probabilities are sums over a response's tokens, in nats."""

    prompt: str
    chosen: str
    rejected: str
    file: str = ""
    row: int | None = None
    margin: float | None = None
    weight: float | None = None
    reward_chosen: float | None = None
    reward_rejected: float | None = None
    logp_chosen: float | None = None
    logp_rejected: float | None = None
    ref_logp_chosen: float | None = None
    ref_logp_rejected: float | None = None
    length_chosen: int | None = None
    length_rejected: int | None = None

    @property
    def correct(self) -> float | None:
        """1 right, 0 wrong, one half a tie; None where no margin is known."""
        if self.margin is None:
            return None
        return 0.5 if self.margin == 0 else float(self.margin > 0)

    @property
    def logp_margin(self) -> float | None:
        """log pi(y_w | x) - log pi(y_l | x), in nats: the model's own preference."""
        return difference(self.logp_chosen, self.logp_rejected)

    @property
    def ref_logp_margin(self) -> float | None:
        return difference(self.ref_logp_chosen, self.ref_logp_rejected)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """Everything the report knows of a run."""

    name: str
    recipe: Row = field(default_factory=dict)
    environment: Row = field(default_factory=dict)
    data: Row = field(default_factory=dict)
    train: Sequence[Row] = ()
    """Rows of `metrics.jsonl` of training steps, by step."""
    evals: Sequence[Row] = ()
    """Rows of `metrics.jsonl` of evaluations, by step; names keep their `eval/`."""
    before: Sequence[Pair] = ()
    after: Sequence[Pair] = ()
    after_step: int | None = None
    samples: Sequence[Row] = ()
    summary: Row | None = None
    dropped: Sequence[Row] = ()
    damaged: Sequence[str] = ()

    @property
    def stage(self) -> str:
        return str(self.recipe.get("stage", ""))

    @property
    def is_reward(self) -> bool:
        """Whether rewards are what the model itself gives, and not read off log-probabilities."""
        return self.stage == "reward"

    @property
    def is_rl(self) -> bool:
        """Whether the run learned from its own answers and their rewards."""
        return self.stage == "rl"

    @property
    def reward_word(self) -> str:
        return "reward" if self.is_reward else "implicit reward"

    @property
    def to_stay_close(self) -> str:
        """What holds the policy nearer to its reference, as advice; not every loss has a beta."""
        return "lower --alpha" if self.recipe.get("loss") == "unlikelihood" else "raise --beta"

    @property
    def finished(self) -> bool:
        return self.summary is not None and self.summary.get("status", "done") == "done"

    @property
    def steps(self) -> int:
        """Updates made so far."""
        logged = [int(row["step"]) for row in (*self.train, *self.evals)]
        return max([*logged, int(number(self.summary or {}, "steps") or 0)])

    @property
    def planned_steps(self) -> int | None:
        planned = number(self.recipe, "max_steps")
        return None if planned is None else int(planned)

    @property
    def has_preferences(self) -> bool:
        """Whether the run learned from comparisons."""
        names = ("rewards/margins", "eval/rewards/margins")
        return bool(self.after) or any(
            n in row for row in (*self.train, *self.evals) for n in names
        )

    @property
    def set_aside(self) -> dict[str, int]:
        """Rows set aside, by reason."""
        counted = mapping(self.data, "set_aside")
        if counted:
            return {str(k): int(number(counted, k) or 0) for k in counted}
        return dict(Counter(str(row.get("reason", "unnamed")) for row in self.dropped))

    def held_out(self, name: str) -> tuple[float | None, float | None]:
        """An evaluation metric (without `eval/`) before training and at the latest evaluation."""
        summary = self.summary or {}
        before = number(mapping(summary, "eval_before"), name)
        after = number(mapping(summary, "eval_after"), name)
        logged = [(row["step"], number(row, f"eval/{name}")) for row in self.evals]
        logged = [(step, value) for step, value in logged if value is not None]
        if before is None and logged and logged[0][0] == 0:
            before = logged[0][1]
        if after is None and logged and logged[-1][0] > 0:
            after = logged[-1][1]
        return before, after


def read_run(folder: Path) -> RunData:
    """Read a run folder. Raises RunFolderError when it is none."""
    if not folder.is_dir():
        there = "is a file, not a run folder" if folder.exists() else "does not exist"
        raise RunFolderError(f"{folder} {there}; name the folder that --out named")
    if not any((folder / mark).is_file() for mark in MARKS):
        raise RunFolderError(
            f"{folder} is not a run of redpencil (it has no {MARKS[0]}); "
            "name the folder that --out named"
        )
    damaged: list[str] = []
    lines = {
        name: _read_lines(folder / f"{name}.jsonl", damaged)
        for name in ("metrics", "pairs", "samples", "dropped")
    }
    metrics = sorted(
        (row for row in lines["metrics"] if number(row, "step") is not None),
        key=lambda row: float(row["step"]),
    )
    before, after, after_step = _pairs(lines["pairs"])
    return RunData(
        name=folder.resolve().name,
        recipe=_read_mapping(folder / "recipe.yaml", yaml.safe_load, damaged) or {},
        environment=_read_mapping(folder / "environment.json", json.loads, damaged) or {},
        data=_read_mapping(folder / "data.json", json.loads, damaged) or {},
        train=[row for row in metrics if not _is_evaluation(row)],
        evals=[row for row in metrics if _is_evaluation(row)],
        before=before,
        after=after,
        after_step=after_step,
        samples=lines["samples"],
        summary=_read_mapping(folder / "summary.json", json.loads, damaged),
        dropped=lines["dropped"],
        damaged=damaged,
    )


def number(row: Row, name: str) -> float | None:
    """The finite number under `name`, or None."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def mapping(row: Row, name: str) -> Row:
    """The mapping under `name`; an empty one where there is none."""
    value = row.get(name)
    return value if isinstance(value, Mapping) else {}


def difference(a: float | None, b: float | None) -> float | None:
    """a - b where both are known."""
    return None if a is None or b is None else a - b


def present(values: Sequence[float | None]) -> list[float]:
    """Those that are known."""
    return [v for v in values if v is not None]


def _is_evaluation(row: Row) -> bool:
    return any(name.startswith("eval/") for name in row)


def _pairs(rows: Sequence[Row]) -> tuple[list[Pair], list[Pair], int | None]:
    """Held-out pairs before training (step 0), at the latest step, and that step."""
    by_step: dict[int, list[Pair]] = {}
    for row in rows:
        if row.get("split", "eval") == "eval":
            by_step.setdefault(int(number(row, "step") or 0), []).append(_pair(row))
    last = max(by_step, default=0)
    return by_step.get(0, []), by_step[last] if last else [], last or None


def _pair(row: Row) -> Pair:
    texts = {name: _text(row.get(name)) for name in ("prompt", "chosen", "rejected", "file")}
    counts = {}
    for name in ("row", "length_chosen", "length_rejected"):
        value = number(row, name)
        counts[name] = None if value is None else int(value)
    margin = number(row, "margin")
    if margin is None:
        margin = difference(number(row, "reward_chosen"), number(row, "reward_rejected"))
    weight = number(row, "weight")
    if weight is None and margin is not None:
        weight = 1.0 / (1.0 + math.exp(min(margin, 700.0)))
    names = ("reward_chosen", "reward_rejected", "logp_chosen", "logp_rejected")
    numbers = {name: number(row, name) for name in names}
    numbers |= {f"ref_{name}": number(row, f"ref_{name}") for name in names[2:]}
    return Pair(**texts, **counts, **numbers, margin=margin, weight=weight)  # type: ignore[arg-type]


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_mapping(
    path: Path, parse: Callable[[str], object], damaged: list[str]
) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = parse(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError, yaml.YAMLError):
        content = None
    if isinstance(content, dict):
        return {str(key): value for key, value in content.items()}
    damaged.append(f"{path.name} cannot be read")
    return None


def _read_lines(path: Path, damaged: list[str]) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file. The last line may be half a line: a run writes it, or was killed
    at it. Lines are split at newlines only, for texts may hold other separators."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows, bad = [], []
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif i < len(lines) - 1:
            bad.append(i + 1)
    if bad:
        damaged.append(f"{path.name}: {len(bad)} lines cannot be read, the first is line {bad[0]}")
    return rows
