"""The one table of objectives: name -> function, and what it needs.

Adding an objective is a function and a row here (or in a program: `OBJECTIVES["mine"] = ...`).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial

from redpencil.errors import RecipeError, did_you_mean, not_a
from redpencil.objectives.listwise import plackett_luce
from redpencil.objectives.pairwise import dpo, hinge, ipo, unlikelihood
from redpencil.objectives.sft import sft
from redpencil.types import Comparison, Outcome, Pairs, Scores, Unit

COLUMN_DEFAULTS = {
    field.name: field.default
    for field in fields(Comparison)
    if field.name in ("weight", "margin", "probability")
}
"""What a comparison may carry, with the value that says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A hyper-parameter of an objective: its default, and which values it may have."""

    default: float
    allowed: Callable[[float], bool]
    range: str


BETA = Option(default=0.1, allowed=lambda beta: beta > 0, range="above 0")
LABEL_SMOOTHING = Option(
    default=0.0, allowed=lambda eps: 0 <= eps < 0.5, range="at least 0 and below 0.5"
)
ALPHA = Option(default=0.1, allowed=lambda alpha: 0 <= alpha <= 1, range="from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One row: `fn(scores, pairs, **options) -> Outcome` and what it needs.

    unit: what the sum of its losses is divided by. options: its hyper-parameters by name.
    columns: which of weight, margin and probability of a comparison it uses.
    """

    name: str
    fn: Callable[..., Outcome]
    unit: Unit
    needs_reference: bool
    options: Mapping[str, Option]
    columns: frozenset[str]

    @property
    def of_preferences(self) -> bool:
        """Does it learn from comparisons? Then it can be the loss of the stage `dpo`, whose
        reference serves to measure rewards and KL even where the loss does without."""
        return self.unit == "comparison"

    def unused_columns(self, comparisons: Iterable[Comparison]) -> dict[str, Comparison]:
        """Columns that say something but would be ignored, each with the first comparison that
        carries it (its origin belongs in the message)."""
        ignored = COLUMN_DEFAULTS.keys() - self.columns
        found: dict[str, Comparison] = {}
        for comparison in comparisons:
            for column in ignored - found.keys():
                if getattr(comparison, column) != COLUMN_DEFAULTS[column]:
                    found[column] = comparison
        return dict(sorted(found.items()))

    def settings(self, **given: float | None) -> dict[str, float]:
        """Every option's value: those given, and the default where nothing (None) was given.

        Raises RecipeError for an option that this objective does not take or a value out of range.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        for name in chosen.keys() - self.options.keys():
            raise RecipeError(self._refusal(name))
        for name, value in chosen.items():
            option = self.options[name]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and option.allowed(value)):
                raise RecipeError(f"{name} must be {option.range}, got {value!r}")
        return {name: float(chosen.get(name, o.default)) for name, o in self.options.items()}

    def _refusal(self, name: str) -> str:
        takes = f"takes only {', '.join(self.options)}" if self.options else "takes no options"
        if any(name in other.options for other in OBJECTIVES.values()):
            return f"{name} does nothing with the loss {self.name}, which {takes}; leave it out"
        close = did_you_mean(name, self.options)
        return f"the loss {self.name} has no option {name!r}{close}"


_PAIRWISE_COLUMNS = frozenset({"weight", "margin", "probability"})

OBJECTIVES: dict[str, Objective] = {
    row.name: row
    for row in (
        Objective(
            name="dpo",
            fn=dpo,
            unit="comparison",
            needs_reference=True,
            options={"beta": BETA, "label_smoothing": LABEL_SMOOTHING},
            columns=_PAIRWISE_COLUMNS,
        ),
        Objective(
            name="ipo",
            fn=ipo,
            unit="comparison",
            needs_reference=True,
            options={"beta": BETA, "label_smoothing": LABEL_SMOOTHING},
            columns=_PAIRWISE_COLUMNS - {"margin"},
        ),
        Objective(
            name="hinge",
            fn=hinge,
            unit="comparison",
            needs_reference=True,
            options={"beta": BETA},
            columns=_PAIRWISE_COLUMNS - {"probability"},
        ),
        Objective(
            name="plackett-luce",
            fn=plackett_luce,
            unit="comparison",
            needs_reference=True,
            options={"beta": BETA},
            columns=_PAIRWISE_COLUMNS - {"probability"},
        ),
        Objective(
            name="unlikelihood",
            fn=unlikelihood,
            unit="comparison",
            needs_reference=False,
            options={"alpha": ALPHA},
            columns=frozenset({"weight"}),
        ),
        Objective(
            name="sft",
            fn=sft,
            unit="token",
            needs_reference=False,
            options={},
            columns=frozenset(),
        ),
    )
}


def objective(name: str) -> Objective:
    """The row called `name`. Raises RecipeError, with the nearest name, if there is none."""
    if name not in OBJECTIVES:
        raise RecipeError(f"unknown loss {name!r}{did_you_mean(name, OBJECTIVES)}")
    row = OBJECTIVES[name]
    if not isinstance(row, Objective):
        raise not_a(f"OBJECTIVES[{name!r}]", "an Objective", row)
    return row


def bind(name: str, **options: float | None) -> Callable[[Scores, Pairs], Outcome]:
    """The objective `name` with its options fixed: a function of scores and pairs alone.

    An option that is None or left out has the default of its row. Raises RecipeError for an unknown
    name, an option that would do nothing, or a value out of range.
    """
    row = objective(name)
    return partial(row.fn, **row.settings(**options))
