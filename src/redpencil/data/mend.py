"""Rows whose labels are doubted, mended: the doubted comparison dropped, flipped or softened.

The rest of a row stays as it stands, under its own column names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from redpencil.data.contents import Row
from redpencil.data.judgements import written_out
from redpencil.data.rows import Reader
from redpencil.errors import DataError, did_you_mean

How = Literal["drop", "flip", "soften"]
HOWS: tuple[str, ...] = get_args(How)
CHOSEN, REJECTED = "chosen", "rejected"


@dataclass(frozen=True, slots=True)
class Doubt:
    """A comparison of a row that may be reversed.

    chosen, rejected: which of the row's usable responses, from 0. right: probability that the
    label is right.
    """

    chosen: int
    rejected: int
    right: float


def check_how(how: str) -> How:
    """Raises DataError for what is no way to mend."""
    if how not in HOWS:
        raise DataError(
            f"suspects can be mended by drop, flip or soften, not {how!r}{did_you_mean(how, HOWS)}"
        )
    return how  # type: ignore[return-value]


def mend(
    cells: Mapping[str, Any],
    row: Row,
    reader: Reader,
    doubts: Sequence[Doubt],
    how: How,
    columns: Mapping[str, str],
) -> dict[str, Any] | None:
    """A row with its doubted comparisons mended; None where nothing is left of it.

    cells: under their own names; row: under ours; columns: ours to theirs. Of a pair, flipping
    swaps chosen and rejected, and every other two columns whose names differ in these words;
    softening sets its probability. Among several responses the comparisons are written out, in a
    column `comparisons`, which counts before scores and rankings.

    Raises DataError for rows with a label each, and for columns inside of others.
    """
    if reader.shape.kind == "labelled":
        raise DataError(
            f"{row.origin}: a label that belongs to one response cannot be mended: a doubted pair "
            "does not say which of its two labels is wrong"
        )
    if reader.shape.kind == "ranked":
        return _mend_ranked(cells, row, reader, doubts, how, columns)
    if how == "drop":
        return None
    doubt = doubts[0]
    if how == "flip":
        return _swapped(cells, reader, columns, row)
    return _with(cells, row, "probability", softened(_probability(row), doubt.right), columns)


def softened(probability: float, right: float) -> float:
    """How sure it is that chosen wins, once the label that said `probability` is right only with
    probability `right`."""
    return probability * right + (1.0 - probability) * (1.0 - right)


def _probability(row: Row) -> float:
    value = row.get("probability")
    return 1.0 if value is None else float(value)


def _with(
    cells: Mapping[str, Any], row: Row, ours: str, value: Any, columns: Mapping[str, str]
) -> dict[str, Any]:
    """The row with one column set; one that is mapped, under its own name."""
    name = columns.get(ours, ours)
    if name != ours and name not in cells and "." in name:
        raise DataError(
            f'{row.origin}: the column "{name}" lies inside another one and cannot be rewritten; '
            "mend by drop instead"
        )
    return {**cells, name: value}


def _swapped(
    cells: Mapping[str, Any], reader: Reader, columns: Mapping[str, str], row: Row
) -> dict[str, Any]:
    other = {
        name: name.replace(CHOSEN, REJECTED)
        for name in cells
        if CHOSEN in name and name.replace(CHOSEN, REJECTED) in cells
    }
    for ours in reader.shape.columns:
        if ours.startswith(CHOSEN):
            theirs = columns.get(ours, ours)
            against = ours.replace(CHOSEN, REJECTED)
            against = columns.get(against, against)
            if theirs not in cells or against not in cells:
                raise DataError(
                    f'{row.origin}: "{theirs}" and "{against}" lie inside other columns and cannot '
                    "be swapped; mend by drop or soften instead"
                )
            other[theirs] = against
    swapped = dict(cells)
    for one, two in other.items():
        swapped[one], swapped[two] = cells[two], cells[one]
    return swapped


def _mend_ranked(
    cells: Mapping[str, Any],
    row: Row,
    reader: Reader,
    doubts: Sequence[Doubt],
    how: How,
    columns: Mapping[str, str],
) -> dict[str, Any] | None:
    places = reader.places(row)
    doubted = {(places[d.chosen], places[d.rejected]): d for d in doubts}
    mended: list[Any] = []
    for item in written_out(row, reader.by, len(row.sequence(reader.shape.columns[1]))):
        pair = (item["chosen"], item["rejected"])
        doubt = doubted.get(pair)
        if doubt is None:
            mended.append(_shortest(item))
        elif how == "flip":
            mended.append(_shortest({**item, "chosen": pair[1], "rejected": pair[0]}))
        elif how == "soften":
            said = item.get("probability", _probability(row))
            mended.append({**item, "probability": softened(float(said), doubt.right)})
    return _with(cells, row, "comparisons", mended, columns) if mended else None


def _shortest(item: dict[str, Any]) -> Any:
    return [item["chosen"], item["rejected"]] if len(item) == 2 else item
