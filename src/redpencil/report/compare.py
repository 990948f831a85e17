"""Several runs side by side: what can be compared, what cannot, and where they disagree.

Pure functions over RunData; `compare_page` puts them on a page.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from redpencil.report.estimates import half_interval
from redpencil.report.pairs import Pair
from redpencil.report.rundata import RunData, number, present
from redpencil.report.wording import count, percent, points

PairKey = tuple[int | None, str, str]

LEVEL = 0.05
"""Of McNemar's test, for a difference to be called one."""

HIDDEN_OPTIONS = ("out",)
"""Options that always differ and say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A held-out pair that all runs measured: its texts, and each run's own measurement."""

    pairs: tuple[Pair, ...]

    @property
    def right(self) -> tuple[bool, ...]:
        """A tie is not right."""
        return tuple(p.margin is not None and p.margin > 0 for p in self.pairs)

    @property
    def disputed(self) -> bool:
        return len(set(self.right)) > 1

    @property
    def gap(self) -> float:
        margins = present([p.margin for p in self.pairs])
        return max(margins) - min(margins)


def names_of(runs: Sequence[RunData], folders: Sequence[str]) -> list[str]:
    """What the runs are called here: their folders' names, or the whole paths where two agree."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else list(folders)


def shared_pairs(runs: Sequence[RunData]) -> list[Shared]:
    """Held-out pairs that every run measured: the same row, with the same two answers."""
    keyed = [{_key(p): p for p in reversed(run.after) if p.margin is not None} for run in runs]
    first, *others = keyed
    common = [key for key in reversed(first) if all(key in other for other in others)]
    return [Shared(pairs=tuple(each[key] for each in keyed)) for key in common]


def _key(pair: Pair) -> PairKey:
    # Prompts are left out: another model's chat template writes them differently.
    return pair.row, pair.chosen.strip(), pair.rejected.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """Two runs on the pairs that both measured. only_first: right in the first alone. difference:
    of the shares ordered correctly, second minus first, with half its 95 % interval (pairs of one
    prompt count as one draw). p: of McNemar's exact test, which takes pairs as independent."""

    first: int
    second: int
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: float
    half: float | None
    p: float

    @property
    def total(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def clear(self) -> bool:
        """Beyond chance by the interval and by the exact test: where few pairs turned, the interval
        is too narrow, and where all prompts agree, it is nothing."""
        beyond = self.half is not None and abs(self.difference) > self.half
        return beyond and self.p < LEVEL


def duels(runs: Sequence[RunData]) -> list[Duel]:
    """Every two runs that have held-out pairs in common."""
    made = (_duel(runs, a, b) for a, b in combinations(range(len(runs)), 2))
    return [duel for duel in made if duel is not None]


def _duel(runs: Sequence[RunData], a: int, b: int) -> Duel | None:
    shared = shared_pairs([runs[a], runs[b]])
    if not shared:
        return None
    outcomes = [s.right for s in shared]
    only_first = outcomes.count((True, False))
    only_second = outcomes.count((False, True))
    by_prompt: dict[str, list[int]] = {}
    for s in shared:
        by_prompt.setdefault(s.pairs[0].prompt, []).append(int(s.right[1]) - int(s.right[0]))
    return Duel(
        first=a,
        second=b,
        both=outcomes.count((True, True)),
        only_first=only_first,
        only_second=only_second,
        neither=outcomes.count((False, False)),
        difference=(only_second - only_first) / len(shared),
        half=half_interval(list(by_prompt.values())),
        p=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: the smaller count against a fair coin."""
    tosses = only_first + only_second
    if not tosses:
        return 1.0
    fewer = min(only_first, only_second)
    below = sum(math.comb(tosses, k) for k in range(fewer + 1))
    return min(1.0, 2 * below / 2**tosses)


def headline(names: Sequence[str], fights: Sequence[Duel]) -> tuple[str, str]:
    """(headline, sentence): who leads on the same held-out pairs, if anybody does."""
    if not fights:
        text = "They share no held-out pair, so which one is better cannot be told from these runs."
        return f"{len(names)} runs, nothing to compare", text
    if len(names) == 2:
        (duel,) = fights
        return _of_two(names, duel)
    wins = [0] * len(names)
    for duel in fights:
        if duel.clear:
            wins[duel.second if duel.difference > 0 else duel.first] += 1
    best = max(range(len(names)), key=wins.__getitem__)
    if wins[best] == len(names) - 1:
        text = (
            "It orders more of the held-out pairs that it shares with each of the others correctly."
        )
        return f"{names[best]} is ahead", text
    text = "No run is clearly ahead of every other on the held-out pairs that they share."
    return "No clear winner", text


def _of_two(names: Sequence[str], duel: Duel) -> tuple[str, str]:
    first = (duel.both + duel.only_first) / duel.total
    second = (duel.both + duel.only_second) / duel.total
    change = points(duel.difference, duel.half)
    text = (
        f"On the same {count(duel.total, 'held-out pair')}, {names[0]} orders "
        f"{percent(first, 1)} correctly and {names[1]} {percent(second, 1)}: a difference of "
        f"{change} points."
    )
    if not duel.clear:
        return "No clear difference", f"{text} Chance alone could make it."
    return f"{names[1 if duel.difference > 0 else 0]} is ahead", text


def options(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """Options of the recipes that are not the same in all runs."""
    named = dict.fromkeys(key for run in runs for key in run.recipe)
    rows = []
    for key in named:
        values = [_said(run.recipe.get(key)) for run in runs]
        if key not in HIDDEN_OPTIONS and len(set(values)) > 1:
            rows.append((key, values))
    return rows


def _said(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def cautions(runs: Sequence[RunData], names: Sequence[str], common: int) -> list[str]:
    """What cannot be compared, and why."""
    said = []
    stages = _differing(runs, lambda run: run.stage)
    if stages:
        said.append(
            f"The stages differ ({_listed(names, stages)}): they learn different things. What they "
            "share is how many pairs they order correctly."
        )
    elif losses := _differing(runs, lambda run: run.recipe.get("loss")):
        said.append(
            f"The objectives differ ({_listed(names, losses)}): their losses are numbers of "
            "different scales, so the loss curves are left out."
        )
    betas = _differing(runs, lambda run: number(run.recipe, "beta"))
    if betas:
        said.append(
            f"β differs ({_listed(names, betas)}): implicit rewards and margins are multiples of "
            "it, and the loss follows them. Compare their signs, not their sizes."
        )
    if models := _differing(runs, lambda run: run.recipe.get("model")):
        said.append(
            f"They begin from different models ({_listed(names, models)}): KL and "
            "log-probabilities are counted from different places."
        )
    said += _of_the_data(runs, names, common)
    for run, name in zip(runs, names, strict=True):
        if not run.finished:
            said.append(f"{name} is not finished: step {run.steps:,}.")
    return said


def _of_the_data(runs: Sequence[RunData], names: Sequence[str], common: int) -> list[str]:
    said = []
    if data := _differing(runs, lambda run: run.recipe.get("data")):
        said.append(f"They learned from different data ({_listed(names, data)}).")
    held_out = [len(run.after) for run in runs]
    if not any(held_out):
        return said
    if common == 0:
        said.append(
            "No held-out pair was measured by all of them: each share stands on pairs of its own, "
            "and a difference may come from the pairs."
        )
    elif any(n != common for n in held_out):
        said.append(
            f"All of them measured {count(common, 'held-out pair')} "
            f"({_listed(names, [f'{n:,}' for n in held_out])} by each): only those are compared "
            "pair by pair; the shares in the table are of each run's own."
        )
    return said


def _differing(runs: Sequence[RunData], of: Any) -> list[str] | None:
    """The values in words, where they are not all the same."""
    values = [_said(of(run)) if of(run) not in (None, "") else "none" for run in runs]
    return values if len(set(values)) > 1 else None


def _listed(names: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
