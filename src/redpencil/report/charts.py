"""Charts drawn here as SVG: they need no script, they print, and the page gives them their colours.

A drawing is stretched to the room it gets, so lines keep their width (`vector-effect`), dots are
lines of no length with round ends, and every text stands beside the SVG as HTML.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from redpencil.report.wording import short

WIDE, HIGH = 1000, 400
"""The drawing's own units."""

Figure = Mapping[str, Any]
Drawing = dict[str, Any]


def draw(figure: Figure) -> Drawing:
    """What the template needs to put a figure on the page: `paths` (class, d), ticks as
    (percent, text), `rule`, `legend` (class, label), `axes`, `range` and a sentence `spoken`."""
    return _DRAW[figure["kind"]](figure)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between `low` and `high`."""
    assert high > low, (low, high)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [
        round(i * step, 12) + 0.0
        for i in range(first, first + 20)
        if i * step <= high + 1e-9 * step
    ]


def _curve(figure: Figure) -> Drawing:
    series = figure["series"]
    line = figure["line"]
    seen = [v for s in series for v in s["smooth"] or s["y"]]
    raw = sorted(v for s in series if s["smooth"] for v in s["y"])
    if raw:  # single spikes may leave the picture
        seen += [raw[len(raw) // 50], raw[-1 - len(raw) // 50]]
    seen += [line["value"]] if line else []
    if figure["id"] in ("learning_rate", "grad_norm", "kl"):
        seen.append(0.0)
    x = [v for s in series for v in s["x"]]
    air = 0.012 * (max(x) - min(x))  # room for the dots at both ends
    place = Place((min(x) - air, max(x) + air), padded(seen))
    paths = []
    for s in series:
        style = s.get("style") or style_of(s, series)
        if s["smooth"]:
            paths.append((f"raw {style}", place.line(s["x"], s["y"])))
        paths.append((style, place.line(s["x"], s["smooth"] or s["y"])))
        if s["held_out"] and len(s["x"]) <= 60:
            paths.append((f"dots {style}", place.dots(s["x"], s["y"])))
    rule = {"d": place.across(line["value"]), "label": line["label"]} if line else None
    if rule and line:
        rule["at"] = place.up(line["value"])
    legend = [(s.get("style") or style_of(s, series), s["label"]) for s in series]
    spoken = [f"{s['label']}: from {s['first']} to {s['last']}" for s in series]
    return {
        **place.ticks(),
        "paths": paths,
        "rule": rule,
        "legend": legend if len(legend) > 1 else [],
        "axes": ["step", ""],
        "spoken": "; ".join(spoken),
    }


def style_of(series: Figure, all_series: Sequence[Figure]) -> str:
    """Chosen and rejected differ by colour, and training is dotted; without sides, training and
    held out differ by colour."""
    if any(s["side"] == "rejected" for s in all_series):
        colour = "red" if series["side"] == "chosen" else "grey"
        return colour if series["held_out"] else f"{colour} dotted"
    return "red" if series["held_out"] or len(all_series) == 1 else "grey"


def _histogram(figure: Figure) -> Drawing:
    centres, width = figure["centres"], figure["width"]
    top = max(max(s["counts"]) for s in figure["series"])
    span = (centres[0] - width / 2, centres[-1] + width / 2)
    place = Place(span, (0.0, 1.06 * top))
    paths = []
    for s in reversed(figure["series"]):  # the outline of before lies on the hill of now
        steps = _steps(span[0], width, s["counts"])
        if s["label"] == "before":
            paths.append(("grey", place.line(*steps)))
        else:
            paths.append(("red filled", place.line(*steps) + "Z"))
    names = {"before": "grey", "now": "red filled"}
    legend = [(names[s["label"]], s["label"]) for s in figure["series"]]
    spoken = [f"{s['label']}: mean {s['mean']}, above 0 {s['right']}" for s in figure["series"]]
    return {
        **place.ticks(),
        "paths": paths,
        "rule": {"d": place.along(0.0), "label": "", "at": 0.0},
        "legend": legend if len(legend) > 1 else [],
        "axes": [figure["unit"], "pairs"],
        "spoken": "; ".join(spoken),
    }


def _steps(first: float, width: float, counts: Sequence[int]) -> tuple[list[float], list[float]]:
    """The outline of bars, from the base line and back to it."""
    x, y = [first], [0.0]
    for i, n in enumerate(counts):
        x += [first + i * width, first + (i + 1) * width]
        y += [float(n), float(n)]
    return [*x, x[-1]], [*y, 0.0]


def _points(figure: Figure) -> Drawing:
    largest = max(figure["size"]) if figure["size"] else 1.0
    place = Place(padded(figure["x"]), padded(figure["y"]))
    sizes = [6 + 14 * math.sqrt(n / largest) for n in figure["size"] or []]
    paths: list[tuple[str, ...]] = []
    if sizes:
        for x, y, size in zip(figure["x"], figure["y"], sizes, strict=True):
            paths.append(("dots red", place.dots([x], [y]), f"{size:.0f}px"))
    else:
        paths.append(("dots red many", place.dots(figure["x"], figure["y"])))
    rule = None
    if figure["diagonal"]:
        low, high = figure["diagonal"]
        rule = {"d": place.line([low, high], [low, high]), "label": "", "at": 0.0}
    return {
        **place.ticks(),
        "paths": paths,
        "rule": rule,
        "legend": [],
        "axes": figure["axes"],
        "spoken": "; ".join(" ".join(row) for row in figure["rows"]),
    }


_DRAW = {"curve": _curve, "histogram": _histogram, "points": _points}


def padded(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values with a little air; a flat line lies in the middle."""
    low, high = min(values), max(values)
    air = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if low == 0 else low - air, high + air)


class Place:
    """Where values lie in a drawing that spans the ranges `across` and `up`."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        if across[1] <= across[0]:
            across = (across[0] - 0.5, across[0] + 0.5)
        self.x0, self.x1 = across
        self.y0, self.y1 = up

    def point(self, x: float, y: float) -> str:
        right = WIDE * (x - self.x0) / (self.x1 - self.x0)
        down = HIGH * (self.y1 - y) / (self.y1 - self.y0)
        return f"{right:.0f},{down:.0f}"

    def line(self, x: Sequence[float], y: Sequence[float]) -> str:
        return "M" + " ".join(self.point(a, b) for a, b in zip(x, y, strict=True))

    def dots(self, x: Sequence[float], y: Sequence[float]) -> str:
        return "".join(f"M{self.point(a, b)}h0" for a, b in zip(x, y, strict=True))

    def across(self, y: float) -> str:
        return self.line([self.x0, self.x1], [y, y])

    def along(self, x: float) -> str:
        return self.line([x, x], [self.y0, self.y1])

    def up(self, y: float) -> float:
        """Percent from the top."""
        return 100 * (self.y1 - y) / (self.y1 - self.y0)

    def ticks(self) -> Drawing:
        span = self.x1 - self.x0
        x, y = ticks(self.x0, self.x1, 5), ticks(self.y0, self.y1, 4)
        return {
            "x_ticks": [(f"{100 * (v - self.x0) / span:.2f}", _label(v, x)) for v in x],
            "y_ticks": [(f"{self.up(v):.2f}", _label(v, y)) for v in y],
            "grid": "".join(self.across(v) for v in y),
            "range": [self.x0, self.x1, self.y0, self.y1],
        }


def _label(value: float, all_values: Sequence[float]) -> str:
    """A tick's number, with as many decimals as its neighbours need."""
    step = all_values[1] - all_values[0] if len(all_values) > 1 else abs(value) or 1.0
    if value == 0:
        return "0"
    if step < 1e-3 or step >= 1e6:
        return short(value, 2)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}".replace("-", "\u2212")


def readable(figure: Figure) -> Drawing:
    """What the script needs to read values off a drawn figure."""
    kind, drawing = figure["kind"], figure["drawing"]
    if kind == "points":
        series = [{"label": figure["axes"][1], "x": figure["x"], "y": figure["y"]}]
        order = sorted(range(len(figure["x"])), key=lambda i: figure["x"][i])
        series = [{**s, **{k: [s[k][i] for i in order] for k in "xy"}} for s in series]
    elif kind == "histogram":
        styles = {label: style for style, label in drawing["legend"]}
        series = [
            {
                "label": s["label"],
                "x": figure["centres"],
                "y": s["counts"],
                "style": styles.get(s["label"], ""),
            }
            for s in figure["series"]
        ]
    else:
        series = [
            {
                "label": s["label"],
                "x": s["x"],
                "y": s["y"],
                "style": s.get("style") or style_of(s, figure["series"]),
            }
            for s in figure["series"]
        ]
    axis = drawing["axes"][0]
    return {"id": figure["id"], "range": drawing["range"], "axis": axis, "series": series}
