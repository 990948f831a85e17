"""Rows with a label or a grade each are joined by prompt: the better ones beat the worse ones.

A label is true or false, a grade any number: what is higher beats what is lower.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from redpencil.data.contents import Row, same
from redpencil.data.judgements import IDENTICAL, Strength, finite
from redpencil.data.split import prompt_key
from redpencil.types import Comparison, Content, Dropped, Origin, Record

UNPAIRED = "unpaired label"
NO_BEST = "no best response"
_WORDS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}

Graded = tuple[Record, float, Strength]
"""A record with one response, its grade (a label is 1 or 0), and the row's strength."""
Joined = Iterator[tuple[Record, tuple[Origin, ...]]]


def label_of(row: Row) -> bool:
    """`label` as true or false (1 and 0 count, and their words), or DataError."""
    value = row.get("label")
    if isinstance(value, str) and value.strip().lower() in _WORDS:
        return _WORDS[value.strip().lower()]
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    raise row.wrong("label", "true or false", value)


def grade_of(row: Row) -> float:
    """`score` of a row with one response, or DataError."""
    return finite(row, "score", row.get("score"))


def join_labels(labelled: Sequence[Graded], dropped: list[Dropped], notes: Counter[str]) -> Joined:
    """Records in the order of their first rows, each with the rows it was made of.

    A comparison carries the product of both rows' weights and probabilities, the sum of their
    margins, and the origin of the better one. Rows without a counterpart go to `dropped`.
    """
    for group in map(_of_one_kind, _by_prompt(labelled)):
        pairs = [
            (i, j)
            for i, (_, good, _) in enumerate(group)
            for j, (_, other, _) in enumerate(group)
            if good > other
        ]
        useful = [(i, j) for i, j in pairs if not same(_answer(group[i]), _answer(group[j]))]
        used = sorted({i for pair in useful for i in pair})
        for i, (record, grade, _) in enumerate(group):
            if i not in used:
                dropped.append(Dropped(record.origin, UNPAIRED, unpaired(grade)))
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


def best_of_prompt(
    labelled: Sequence[Graded], dropped: list[Dropped], notes: Counter[str]
) -> Joined:
    """For SFT: of the graded rows of each prompt the best, one record each."""
    for group in _by_prompt(labelled):
        best = max(grade for _, grade, _ in group)
        for record, grade, _ in group:
            if grade == best:
                yield record, (record.origin,)
            else:
                detail = f"another response to the same prompt has {best:g}, this one {grade:g}"
                dropped.append(Dropped(record.origin, NO_BEST, detail))


def unpaired(grade: float) -> str:
    """Why a row has nothing to be compared with."""
    other = {1.0: "false", 0.0: "true"}.get(grade, "better or worse")
    return f"no {other} response to the same prompt"


def _by_prompt(labelled: Sequence[Graded]) -> Iterator[list[Graded]]:
    groups: dict[str, list[Graded]] = {}
    for item in labelled:
        groups.setdefault(prompt_key(item[0].prompt, item[0].tools), []).append(item)
    yield from groups.values()


def _of_one_kind(group: list[Graded]) -> list[Graded]:
    """Text and turns answer the same prompt: then all of it are turns."""
    if len({isinstance(record.prompt, str) for record, _, _ in group}) < 2:
        return group
    return [(_as_turns(record), grade, strength) for record, grade, strength in group]


def _as_turns(record: Record) -> Record:
    if not isinstance(record.prompt, str):
        return record
    said = (({"role": "assistant", "content": r},) for r in record.responses)
    prompt = ({"role": "user", "content": record.prompt},)
    return replace(record, prompt=prompt, responses=tuple(said))


def _answer(item: Graded) -> Content:
    return item[0].responses[0]


def _compare(group: Sequence[Graded], i: int, j: int, place: dict[int, int]) -> Comparison:
    (record, _, a), (_, _, b) = group[i], group[j]
    return Comparison(
        chosen=place[i],
        rejected=place[j],
        weight=a.weight * b.weight,
        margin=a.margin + b.margin,
        probability=a.probability * b.probability,
        origin=record.origin,
    )
