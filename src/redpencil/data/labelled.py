"""Rows with a label each are joined by prompt: every true response beats every false one."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from redpencil.data.contents import Row, same
from redpencil.data.judgements import IDENTICAL, Strength
from redpencil.data.split import prompt_key
from redpencil.types import Comparison, Content, Dropped, Origin, Record

UNPAIRED = "unpaired label"

Labelled = tuple[Record, bool, Strength]


def label_of(row: Row) -> bool:
    """`label` as true or false (1 and 0 count), or DataError."""
    value = row.get("label")
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    raise row.wrong("label", "true or false", value)


def join_labels(
    labelled: Sequence[Labelled], dropped: list[Dropped], notes: Counter[str]
) -> Iterator[tuple[Record, tuple[Origin, ...]]]:
    """Records in the order of their first rows, each with the rows it was made of.

    A comparison carries the product of both rows' weights and probabilities, the sum of their
    margins, and the origin of the true one. Rows without a counterpart go to `dropped`.
    """
    groups: dict[str, list[Labelled]] = {}
    for item in labelled:
        groups.setdefault(prompt_key(item[0].prompt, item[0].tools), []).append(item)
    for group in groups.values():
        pairs = [
            (i, j)
            for i, (_, good, _) in enumerate(group)
            for j, (_, other, _) in enumerate(group)
            if good and not other
        ]
        useful = [(i, j) for i, j in pairs if not same(_answer(group[i]), _answer(group[j]))]
        used = sorted({i for pair in useful for i in pair})
        for i, (record, label, _) in enumerate(group):
            if i not in used:
                detail = f"no {'false' if label else 'true'} response to the same prompt"
                dropped.append(Dropped(record.origin, UNPAIRED, detail))
        if not useful:
            continue
        if len(useful) < len(pairs):
            notes[IDENTICAL] += len(pairs) - len(useful)
        place = {old: new for new, old in enumerate(used)}
        comparisons = tuple(_compare(group, i, j, place) for i, j in useful)
        kept = [group[i][0] for i in used]
        joined = replace(
            kept[0], responses=tuple(r.responses[0] for r in kept), comparisons=comparisons
        )
        yield joined, tuple(r.origin for r in kept)


def _answer(item: Labelled) -> Content:
    return item[0].responses[0]


def _compare(group: Sequence[Labelled], i: int, j: int, place: dict[int, int]) -> Comparison:
    (record, _, a), (_, _, b) = group[i], group[j]
    return Comparison(
        chosen=place[i],
        rejected=place[j],
        weight=a.weight * b.weight,
        margin=a.margin + b.margin,
        probability=a.probability * b.probability,
        origin=record.origin,
    )
