"""The numbers of a diagnosis in sentences: lengths, shortcuts, prompts, tokens."""

from collections.abc import Iterator, Mapping
from typing import Any

Statistics = Mapping[str, Any]

ENOUGH = 20
"""Rows from which a share of them is worth a sentence; the JSON has it always."""


def sentences(statistics: Statistics) -> Iterator[tuple[str, str]]:
    """(label, sentence) of what was counted; nothing of what was not."""
    for unit in ("characters", "tokens"):
        if said := _lengths(statistics, unit):
            yield f"in {unit}", said
    yield from _shortcuts(statistics)
    rows, prompts = (statistics.get(n) for n in ("most_rows_of_a_prompt", "distinct_prompts"))
    if rows and prompts and rows * prompts > 1:
        different = f"{prompts:,} different ones" if prompts != 1 else "the same everywhere"
        yield (
            "prompts",
            f"{different}, each in at most {rows:,} row{'s' * (rows != 1)}",
        )
    if sources := statistics.get("sources"):
        listed = ", ".join(f"{name} {count:,}" for name, count in list(sources["rows"].items())[:8])
        yield sources["column"], listed
    if len(files := statistics.get("files", {})) > 1:
        yield "files", ", ".join(f"{name} {count:,}" for name, count in list(files.items())[:8])
    yield from _tokens(statistics)


def _lengths(statistics: Statistics, unit: str) -> str:
    """`median of prompt 324 (95 %: 1,392, longest 3,414); response ...`"""
    sides = ("prompt", "response")
    told = [(s, statistics[f"{s}_{unit}"]) for s in sides if statistics.get(f"{s}_{unit}")]
    said = "; ".join(f"{side} {_spread(d)}" for side, d in told)
    varied = any(d["median"] != d["max"] for _, d in told)
    return f"median of {said}" if varied else said


def _spread(d: Mapping[str, int]) -> str:
    """Of one number, or of many that are the same, the median says all."""
    if d["median"] == d["max"]:
        return f"{d['median']:,}"
    return f"{d['median']:,} (95 %: {d['p95']:,}, longest {d['max']:,})"


def _shortcuts(statistics: Statistics) -> Iterator[tuple[str, str]]:
    longer, words = statistics.get("chosen_is_longer"), statistics.get("words_accuracy")
    if longer and longer["rows"] >= ENOUGH:
        alone = statistics["length_accuracy"]
        yield (
            "length",
            f"the chosen response is the longer one in {_share(longer)} of the pairs of "
            f"{longer['rows']:,} rows; length alone orders {_share(alone)} right",
        )
    if words and words["rows"] >= ENOUGH:
        rows = f"{words['rows']:,} {'sampled ' * words['sampled']}rows"
        yield "words", f"a bag of words orders {_share(words)} of the pairs of {rows} right"


def _share(told: Mapping[str, Any]) -> str:
    low, high = told["interval"]
    return f"{told['share']:.1%} ({low:.1%} to {high:.1%})"


def _tokens(statistics: Statistics) -> Iterator[tuple[str, str]]:
    if tokens := statistics.get("tokens"):
        padded = next(count for name, count in tokens.items() if name.startswith("padded"))
        yield (
            "tokens",
            f"{padded:,} if every 8 rows are padded to their longest, {tokens['packed']:,} packed "
            f"without padding, {tokens['distinct']:,} as trees, in which a prompt stands once",
        )
    for limit, cut in statistics.get("cut", {}).items():
        yield (
            f"--max-length {limit}",
            f"{cut['too_long']:,} rows are longer; in {cut['no_room']:,} of them a response "
            "alone leaves no room for a prompt",
        )
