"""A run folder's files as values: the only place of the report that touches the disk to read.

Runs are read while they train and after they were killed, so every file may be absent and the
last line of a growing one may be half a line. What is damaged otherwise is not guessed: it is
listed in `RunData.damaged` and the page says so.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from redpencil.errors import RunFolderError
from redpencil.intervals import Z95
from redpencil.report.estimates import Mean, clustered_mean
from redpencil.report.pairs import Key, Pair, Pairs, gather
from redpencil.report.rows import (
    Row,
    difference,
    mapping,
    number,
    present,
    read_lines,
    read_mapping,
)

if TYPE_CHECKING:
    from redpencil.notebook import Notebook, PairHistory, TokenView, Trend

__all__ = [
    "MARKS",
    "Pair",
    "Row",
    "RunData",
    "difference",
    "is_run",
    "mapping",
    "number",
    "present",
    "read_run",
]

MARKS = ("recipe.yaml", "metrics.jsonl", "summary.json")
"""A folder with any of these is a run."""


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
    trained: Sequence[Pair] = ()
    """Training pairs, a sample, as the last step that used them left them."""
    histories: "Mapping[Key, PairHistory]" = field(default_factory=dict)
    """Of pairs whose texts are known."""
    kinds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """How many pairs of a split went which way, all of them counted."""
    trends: "Mapping[str, Trend]" = field(default_factory=dict)
    """How all pairs of a split moved together, evaluation by evaluation."""
    tokens: "Mapping[Key, TokenView]" = field(default_factory=dict)
    suspects: Sequence[Row] = ()
    suspected: Row = field(default_factory=dict)
    """`suspects.json`: how the suspect labels were found."""
    findings: Row = field(default_factory=dict)
    """`findings.json`: what the doctor said of the data."""
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
    def starts_at_reference(self) -> bool:
        """Whether the policy began as its reference, so that what moved since the one moved since
        the other."""
        own = (None, "base", "preferred-ft", self.recipe.get("model"))
        return self.stage != "dpo" or self.recipe.get("reference") in own

    @property
    def reward_word(self) -> str:
        return "reward" if self.is_reward or self.has_own_rewards else "implicit reward"

    @property
    def has_own_rewards(self) -> bool:
        """Whether the objective's rewards are other than beta (log pi - log pi_ref)."""
        return self.environment.get("rewards") in ("relative", "own")

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
        """Updates that the run will make: named, or told by how far into its epochs a step is."""
        planned = number(self.recipe, "max_steps")
        if planned is not None:
            return int(planned)
        epochs, last = number(self.recipe, "epochs"), self.train[-1] if self.train else {}
        epoch = number(last, "epoch")
        if not epochs or not epoch:
            return None
        return round(epochs * math.ceil(last["step"] / epoch - 1e-6))

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

    @property
    def kl(self) -> float | None:
        """From the reference at the end, or at the latest evaluation, in nats a response."""
        given = number(mapping(self.summary or {}, "kl"), "mean")
        return self.held_out("kl")[1] if given is None else given

    @property
    def kl_half(self) -> float | None:
        """Half its 95 % interval; known when the run has finished."""
        error = number(mapping(self.summary or {}, "kl"), "stderr")
        return None if error is None else Z95 * error

    @property
    def mean_margin(self) -> Mean | None:
        """Of the held-out pairs now, with its interval, prompts drawn at random."""
        return clustered_mean((p.prompt, p.margin) for p in self.after if p.margin is not None)

    @property
    def best_step(self) -> int | None:
        """The evaluated step with the lowest held-out loss (for RL, the highest objective)."""
        given = number(self.summary or {}, "best_step")
        if given is not None:
            return int(given)
        name, sign = ("eval/objective", -1) if self.is_rl else ("eval/loss", 1)
        logged = [(int(row["step"]), number(row, name)) for row in self.evals]
        known = [(sign * value, step) for step, value in logged if value is not None]
        return min(known)[1] if known else None

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


def is_run(folder: Path) -> bool:
    """Whether a folder holds any of what makes it a run."""
    return any((folder / mark).is_file() for mark in MARKS)


def read_run(folder: Path) -> RunData:
    """Read a run folder. Raises RunFolderError when it is none."""
    if not folder.is_dir():
        there = "is a file, not a run folder" if folder.exists() else "does not exist"
        raise RunFolderError(f"{folder} {there}; name the folder that --out named")
    if not is_run(folder):
        raise RunFolderError(
            f"{folder} is not a run of redpencil (it has no {MARKS[0]}); "
            "name the folder that --out named"
        )
    damaged: list[str] = []
    lines = {
        name: read_lines(folder / f"{name}.jsonl", damaged)
        for name in ("metrics", "pairs", "samples", "dropped", "suspects")
    }
    metrics = sorted(
        (row for row in lines["metrics"] if number(row, "step") is not None),
        key=lambda row: float(row["step"]),
    )
    notebook, tokens = _notebook(folder, damaged)
    pairs = gather(lines["pairs"], notebook)
    mappings = {
        name: read_mapping(folder / f"{name}.json", json.loads, damaged)
        for name in ("environment", "data", "summary", "findings", "suspects")
    }
    return RunData(
        name=folder.resolve().name,
        recipe=read_mapping(folder / "recipe.yaml", yaml.safe_load, damaged) or {},
        environment=mappings["environment"] or {},
        data=mappings["data"] or {},
        train=[row for row in metrics if not _is_evaluation(row)],
        evals=[row for row in metrics if _is_evaluation(row)],
        **_fields_of(pairs),
        trends=_trends(notebook),
        tokens=tokens,
        suspects=lines["suspects"],
        suspected=mappings["suspects"] or {},
        findings=mappings["findings"] or {},
        samples=lines["samples"],
        summary=mappings["summary"],
        dropped=lines["dropped"],
        damaged=damaged,
    )


def _fields_of(pairs: Pairs) -> dict[str, Any]:
    return {f.name: getattr(pairs, f.name) for f in fields(pairs)}


def _notebook(
    folder: Path, damaged: list[str]
) -> "tuple[Notebook | None, Mapping[Key, TokenView]]":
    """The notebook and the token views, where the run has them. Imported here because most of
    this room needs no NumPy."""
    notebook: Notebook | None = None
    tokens: Mapping[Key, TokenView] = {}
    if (folder / "pairs.parquet").exists() or (folder / "tokens.parquet").exists():
        from redpencil.notebook import read_notebook, read_tokens

        try:
            notebook = read_notebook(folder)
            damaged.extend(notebook.damaged if notebook else ())
        except (RunFolderError, OSError, ValueError) as error:
            damaged.append(f"pairs.parquet cannot be read ({_first_line(error)})")
        try:
            tokens = read_tokens(folder)
        except (RunFolderError, OSError, ValueError) as error:
            damaged.append(f"tokens.parquet cannot be read ({_first_line(error)})")
    return notebook, tokens


def _trends(notebook: "Notebook | None") -> "Mapping[str, Trend]":
    if notebook is None:
        return {}
    from redpencil.notebook import trends

    return trends(notebook)


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:200]


def _is_evaluation(row: Row) -> bool:
    return any(name.startswith("eval/") for name in row)
