"""Numbers as a reader wants them: no false digits, a true minus sign, units that stay attached."""

import math

NBSP = "\u00a0"
MINUS = "\u2212"


def percent(share: float, digits: int = 0) -> str:
    """0.714 -> '71 %'."""
    return f"{100 * share:.{digits}f}{NBSP}%".replace("-", MINUS)


def percent_range(low: float, high: float) -> str:
    """(0.62, 0.79) -> '62 to 79 %'."""
    return f"{100 * low:.0f} to {100 * high:.0f}{NBSP}%"


def short(value: float | None, digits: int = 3) -> str:
    """Three significant digits: 0.0123, 1.23, 1,230, 1.2e-7; an en dash for what is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size != 0 and (size < 1e-3 or size >= 1e7):
        text = f"{value:.{max(digits - 2, 0)}e}".replace("e-0", "e-").replace("e+0", "e")
    elif size >= 100 or value == int(value):
        text = f"{value:,.0f}"
    else:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{value:,.{decimals}f}"
    return text.replace("-", MINUS)


def plain(value: float | None) -> str:
    """Two decimals, for rewards, whose scale is about 1; as `short` where those would be zeros."""
    if value is None or not math.isfinite(value) or 0 < abs(value) < 0.01:
        return short(value)
    return f"{value:,.2f}".replace("-", MINUS)


def signed(value: float | None) -> str:
    """As `plain`, with a plus before what is positive."""
    return f"+{plain(value)}" if value is not None and value > 0 else plain(value)


def count(n: float, thing: str, plural: str | None = None) -> str:
    """(1, 'pair') -> '1 pair', (1200, 'pair') -> '1,200 pairs'."""
    word = thing if n == 1 else plural or f"{thing}s"
    return f"{n:,.0f}{NBSP}{word}"


def duration(seconds: float) -> str:
    """90 -> '1 min 30 s'."""
    if seconds < 60:
        return f"{short(seconds, 2)}{NBSP}s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}{NBSP}h {minutes}{NBSP}min"
    return f"{minutes}{NBSP}min {rest}{NBSP}s"
