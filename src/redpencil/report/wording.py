"""Numbers as a reader wants them: no false digits, no minus before a zero, units that stay
attached. Whatever prints a number that may be negative or nearly zero prints it through here."""

import math
from collections.abc import Sequence

NBSP = "\u00a0"
MINUS = "\u2212"

ZERO = 5e-5
"""A reward, margin, KL or change of log-probability below this is 0 to a reader: sums of float32
log-probabilities are no surer."""


def fixed(value: float, digits: int = 4, *, sign: bool = False) -> str:
    """`digits` decimals for a terminal or a table of Markdown; "0.00", never "-0.00" or "+0.00"."""
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if not text.strip("+-0.") else text


def percent(share: float, digits: int = 0) -> str:
    """0.714 -> '71 %'."""
    return f"{fixed(100 * share, digits)}{NBSP}%".replace("-", MINUS)


def percent_range(low: float, high: float) -> str:
    """(0.62, 0.79) -> '62 to 79 %'."""
    return f"{fixed(100 * low, 0)} to {fixed(100 * high, 0)}{NBSP}%"


def parts(counts: Sequence[float]) -> list[int]:
    """Whole percentages of the parts of a whole, which add up to 100 (largest remainders; of equal
    ones the first). All 0 where there is nothing."""
    total = math.fsum(counts)
    if not total:
        return [0] * len(counts)
    exact = [100 * n / total for n in counts]
    whole = [math.floor(e) for e in exact]
    by_rest = sorted(range(len(counts)), key=lambda i: whole[i] - exact[i])
    for i in by_rest[: 100 - sum(whole)]:
        whole[i] += 1
    return whole


def short(value: float | None, digits: int = 3) -> str:
    """Three significant digits: 0.0123, 1.23, 1,230, 1.2e-7; an en dash for what is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e7:
        text = f"{value:.{max(digits - 2, 0)}e}".replace("e-0", "e-").replace("e+0", "e")
    elif size >= 100 or value == int(value):
        text = f"{value:,.0f}"
    else:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{value:,.{decimals}f}"
    return text.replace("-", MINUS)


def settled(value: float) -> float:
    """0 where a reward, margin, KL or change of log-probability is 0 but for rounding."""
    return 0.0 if abs(value) < ZERO else value


def nats(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """As `short`, for rewards, margins, KL and changes of log-probability: rounding is 0.
    sign: with a plus before what is positive."""
    if value is None:
        return short(None)
    text = short(settled(value), digits)
    return f"+{text}" if sign and settled(value) > 0 else text


def plain(value: float | None) -> str:
    """Two decimals, for rewards, whose scale is about 1; as `nats` where those would be zeros."""
    if value is None or not math.isfinite(value) or abs(value) < 0.01:
        return nats(value)
    return f"{value:,.2f}".replace("-", MINUS)


def signed(value: float | None) -> str:
    """As `plain`, with a plus before what is positive."""
    return f"+{plain(value)}" if value is not None and settled(value) > 0 else plain(value)


def with_half(value: float | None, half: float | None) -> str:
    """A KL, margin or reward with half its 95 % interval, "0.42 ± 0.05", where that is known; an en
    dash for what is not known."""
    shown = nats(value)
    return f"{shown}{NBSP}±{NBSP}{short(half, 2)}" if half and value is not None else shown


def points(share: float, half: float | None) -> str:
    """A difference of shares in percentage points: (0.031, 0.024) -> '+3.1 ± 2.4'."""
    text = fixed(100 * share, 1, sign=True).replace("-", MINUS)
    return f"{text} ± {fixed(100 * half, 1)}" if half else text


def count(n: float, thing: str, plural: str | None = None) -> str:
    """(1, 'pair') -> '1 pair', (1200, 'pair') -> '1,200 pairs'."""
    word = thing if n == 1 else plural or f"{thing}s"
    return f"{n:,.0f}{NBSP}{word}"


def model_name(model: str) -> str:
    """A model's name on the Hub, or of its folder; of a run's own model, the run's: the rest of a
    path is of somebody's disk."""
    names = [part for part in model.replace("\\", "/").split("/") if part not in ("", ".", "~")]
    hub = model.count("/") == 1 and model[0] not in "./~" and names[-1] != "model"
    if not names or hub:
        return model
    return "/".join(names[-2:]) if names[-1] == "model" else names[-1]


def duration(seconds: float) -> str:
    """90 -> '1 min 30 s'."""
    if seconds < 60:
        return f"{short(seconds, 2)}{NBSP}s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}{NBSP}h {minutes}{NBSP}min"
    return f"{minutes}{NBSP}min {rest}{NBSP}s"
