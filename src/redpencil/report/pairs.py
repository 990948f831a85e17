"""The pairs of a run: texts from `pairs.jsonl`, their numbers over training from the notebook."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from redpencil.report.rows import Row, difference, number, text, whole

if TYPE_CHECKING:
    from redpencil.notebook import Notebook, PairHistory

Key = tuple[str, int]
"""A pair's split ("eval" or "train") and its number in it."""

_NUMBERS: tuple[str, ...] = (
    "reward_chosen",
    "reward_rejected",
    "logp_chosen",
    "logp_rejected",
    "ref_logp_chosen",
    "ref_logp_rejected",
)
_COUNTS = ("length_chosen", "length_rejected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One comparison at one step, as the run wrote it: a margin of 0 is a tie. Log-probabilities
    are sums over a response's tokens, in nats."""

    prompt: str
    chosen: str
    rejected: str
    split: str = "eval"
    pair: int = 0
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
    def key(self) -> Key:
        return self.split, self.pair

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
class Pairs:
    """before: held-out pairs of step 0; after: the same at the latest step, `after_step`.
    trained: training pairs as the latest step that used them left them, a sample. histories: of
    pairs whose texts are known. kinds: how many pairs of a split went which way, all counted."""

    before: Sequence[Pair] = ()
    after: Sequence[Pair] = ()
    after_step: int | None = None
    trained: Sequence[Pair] = ()
    histories: Mapping[Key, "PairHistory"] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def gather(rows: Sequence[Row], notebook: "Notebook | None") -> Pairs:
    """Rows of `pairs.jsonl` and the notebook, joined by split and number of the pair."""
    by_step: dict[int, list[Pair]] = {}
    trained: dict[Key, Pair] = {}
    for row in rows:
        if row.get("split", "eval") == "eval":
            at_step = by_step.setdefault(int(number(row, "step") or 0), [])
            at_step.append(_pair(row, "eval", len(at_step)))
        elif row.get("split") == "train":
            pair = _pair(row, "train", len(trained))
            trained[pair.key] = pair
    last = max(by_step, default=0)
    before, after = by_step.get(0, []), by_step[last] if last else []
    found = Pairs(before=before, after=after, after_step=last or None, trained=[*trained.values()])
    return found if notebook is None else _with_histories(found, notebook)


def _with_histories(found: Pairs, notebook: "Notebook") -> Pairs:
    known = {p.key for p in (*found.before, *found.after, *found.trained)}
    histories: dict[Key, PairHistory] = {}
    for split, side in notebook.sides.items():  # of a million training pairs, few have texts here
        mine = {key: side.of_pair(key[1]) for key in known if key[0] == split}
        histories |= {key: history for key, history in mine.items() if history is not None}
    after, step = found.after, found.after_step
    latest = max((h.last_step for (s, _), h in histories.items() if s == "eval"), default=0)
    if latest > (step or 0):  # while it trains, only the notebook has the newer evaluations
        texts = after or found.before
        after = [_as_of(p, histories[p.key]) for p in texts if p.key in histories]
        step = latest
    trained = [_as_of(p, histories[p.key]) if p.key in histories else p for p in found.trained]
    return Pairs(
        before=found.before,
        after=after,
        after_step=step,
        trained=trained,
        histories=histories,
        kinds={
            split: {str(kind): n for kind, n in side.counts.items()}
            for split, side in notebook.sides.items()
        },
    )


def _as_of(pair: Pair, history: "PairHistory") -> Pair:
    """The pair with the numbers of its last measurement."""
    named: dict[str, Any] = {name: _finite(getattr(history, name)) for name in _NUMBERS}
    counts: dict[str, Any] = {
        name: whole({name: getattr(history, name)}, name) or getattr(pair, name) for name in _COUNTS
    }
    margin, weight = _finite(history.last_margin), _finite(history.weight)
    return replace(pair, margin=margin, weight=weight, **named, **counts)


def _finite(value: object) -> float | None:
    return number({"": value}, "")


def _pair(row: Row, split: str, count: int) -> Pair:
    texts: dict[str, Any] = {
        name: text(row.get(name)) for name in ("prompt", "chosen", "rejected", "file")
    }
    numbers: dict[str, Any] = {name: number(row, name) for name in _NUMBERS}
    numbers |= {name: whole(row, name) for name in (*_COUNTS, "row")}
    margin = number(row, "margin")
    if margin is None:
        margin = difference(numbers["reward_chosen"], numbers["reward_rejected"])
    weight = number(row, "weight")
    if weight is None and margin is not None:
        weight = 1.0 / (1.0 + math.exp(min(margin, 700.0)))
    given = whole(row, "pair")
    place = count if given is None else given
    return Pair(**texts, **numbers, split=split, pair=place, margin=margin, weight=weight)
