"""The list of checks: what looks at the rows, at the records, and at their token ids.

A factory takes the `Subject` and gives a check, or None where there is nothing for it to look at.
A new check is a class in a file of its own and its name here.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redpencil.data.parts import Part
from redpencil.data.reading import Source
from redpencil.doctor.findings import Check, TokenCheck
from redpencil.doctor.numbers.balance import Sources
from redpencil.doctor.numbers.budget import TokenSavings
from redpencil.doctor.numbers.statistics import all_statistics
from redpencil.doctor.rows.forms import FormCheck
from redpencil.doctor.rows.ranks import RankCheck
from redpencil.doctor.rows.repeats import Repeats
from redpencil.doctor.rows.sides import SideCheck
from redpencil.doctor.rows.texts import TextCheck
from redpencil.doctor.rows.tokens import Ends, Starts
from redpencil.doctor.rows.turns import TurnCheck
from redpencil.doctor.rowwise import RowCheck

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is looked at, and with what.

    tokenizer: of `--model`, or None. max_length: tokens of a row that training would take; longest:
    those that the model was made for. evaluation: the data of `--eval-data`, or None.
    """

    source: Source
    tokenizer: "PreTrainedTokenizerBase | None" = None
    max_length: int = sys.maxsize
    longest: int = sys.maxsize
    evaluation: Source | None = None


def _parts(subject: Subject) -> list[Part]:
    return subject.source.parts


def _columns(subject: Subject) -> tuple[str, ...]:
    """The columns of all shapes that the data have."""
    return tuple(dict.fromkeys(name for part in _parts(subject) for name in part.shape.columns))


def _judged(subject: Subject) -> str:
    """The judgement of rows with several responses; of files with different ones, the first."""
    return next((part.layout.by for part in _parts(subject) if part.shape.judged), "")


ROW_CHECKS: tuple[Callable[[Subject], RowCheck | None], ...] = (
    lambda subject: TextCheck(),
    lambda subject: TurnCheck(),
    lambda subject: FormCheck(),
    lambda subject: Repeats(listed=any(p.layout.by == "comparisons" for p in _parts(subject))),
    lambda subject: SideCheck(subject.source.columns, _columns(subject)),
    lambda subject: RankCheck(_judged(subject)) if _judged(subject) else None,
    lambda subject: Sources(),
)
CHECKS: tuple[Callable[[Subject], Check | None], ...] = (
    lambda subject: all_statistics(subject.evaluation),
)
TOKEN_CHECKS: tuple[Callable[[Subject], TokenCheck | None], ...] = (
    lambda subject: Starts(subject.tokenizer) if subject.tokenizer else None,
    lambda subject: Ends(subject.tokenizer) if subject.tokenizer else None,
    lambda subject: TokenSavings(),
)
