"""From a frontier's folder to `frontier.html`: one self-contained file, written whole or not."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redpencil.errors import RunFolderError
from redpencil.report.embed import json_script
from redpencil.report.frontier_verdict import judge_frontier
from redpencil.report.page import environment, plotly, text_of, write_page
from redpencil.report.wording import percent, plain

FRONTIER = "frontier.json"

SHAPES = ("circle", "diamond", "square", "triangle-up", "star", "hexagon", "cross", "x")
"""Of the markers: methods differ by shape as well as by colour."""

Row = Mapping[str, Any]


def build_frontier_page(folder: Path, out: Path | None = None) -> Path:
    """Write FOLDER/frontier.html, or `out`, from FOLDER/frontier.json alone and return its path.

    Raises RunFolderError when there is no frontier or the page cannot be written.
    """
    source, target = folder / FRONTIER, out or folder / "frontier.html"
    if not source.is_file():
        raise RunFolderError(f"{folder} holds no finished frontier: there is no {source.name}")
    try:
        html = render_frontier(json.loads(source.read_bytes()))
    except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError):
        raise RunFolderError(
            f"{source} is damaged; remove it and repeat redpencil frontier, which writes it anew"
        ) from None
    return write_page(target, html)


def render_frontier(content: dict[str, Any]) -> str:
    """The page. Same content, same bytes."""
    methods = [
        {**method, "shape": SHAPES[i % len(SHAPES)]} for i, method in enumerate(content["methods"])
    ]
    labels = {m["name"]: m["label"] for m in methods}
    drawn = {key: content[key] for key in ("reference", "optimum", "means", "points")}
    drawn |= {"methods": methods, "range": _range(content)}
    shown: dict[str, Any] = {
        "verdict": judge_frontier(content),
        "content_json": json_script(drawn),
        "levels": [f"{c['kl']:g}" for c in content["comparison"][0]["at"] if c],
        "comparison": _comparison(content["comparison"], labels),
        "means": [_mean_row(m, labels) for m in content["means"] if m["final"]],
        "looks": len(content["points"]),
        "outside": _outside(drawn),
        "failures": sorted(content["failures"].items()),
        "settings": content["settings"],
        "seeds": content["seeds"],
        "samples": content["reference"]["completions"],
        "command": content["command"],
        "plotly_packed": plotly(),
        "css": text_of("page.css", "frontier.css"),
        "js": text_of("common.js", "plots.js", "frontier.js"),
    }
    nonce = hashlib.blake2b(repr(sorted(shown.items())).encode("utf-8", "replace"), digest_size=12)
    template = environment().get_template("frontier.html")
    return template.render(**shown, nonce=nonce.hexdigest())


def _range(content: Row) -> dict[str, list[float]]:
    """Axes that show the optimum and all lines; what fell far below stays outside."""
    lines = [point for method in content["methods"] for point in method["line"]]
    ends = [m for m in content["means"] if m["final"]]
    start = content["reference"]["reward"]
    top = max([start, *(o["reward"] for o in content["optimum"])])
    rise = max(top - start, 0.1)
    inside = [m["kl"] for m in ends if m["reward"] > start - 0.25 * rise]
    right = max([0.5, *(kl for kl, _ in lines), *inside])
    low = min([start, *(m["reward"] for m in ends if m["kl"] <= right)])
    bottom = max(low, start - 0.25 * rise)
    return {
        "kl": [-0.03 * right, 1.05 * right],
        "reward": [bottom - 0.08 * rise, top + 0.08 * rise],
    }


def _outside(drawn: Row) -> int:
    """Points that the plot does not show at first."""
    left, right = drawn["range"]["kl"]
    bottom, top = drawn["range"]["reward"]
    return sum(
        not (left <= p["kl"] <= right and bottom <= p["reward"] <= top) for p in drawn["points"]
    )


def _comparison(rows: Sequence[Row], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The optimum first, then the methods; at each KL reward and share, or None."""
    known = [i for i, cell in enumerate(rows[0]["at"]) if cell]
    shown = []
    for row in rows:
        cells: list[dict[str, Any] | None] = []
        for cell in (row["at"][i] for i in known):
            if cell is None:
                cells.append(None)
                continue
            share = "" if row["method"] == "optimum" else percent(cell["share"])
            error = f" ± {100 * cell['share_stderr']:.0f}" if cell["share_stderr"] else ""
            cells.append(
                {
                    "reward": _with_error(cell["reward"], cell["stderr"]),
                    "share": share and share.replace("\u00a0%", f"{error}\u00a0%"),
                    "trusted": cell["trusted"],
                }
            )
        shown.append({"label": labels.get(row["method"], "The optimum"), "cells": cells})
    return shown


def _mean_row(mean: Row, labels: Mapping[str, str]) -> dict[str, str]:
    share = "–" if mean["fraction"] is None else percent(mean["fraction"])
    if mean["fraction"] is not None and mean["fraction_stderr"]:
        share = share.replace("\u00a0%", f" ± {100 * mean['fraction_stderr']:.0f}\u00a0%")
    return {
        "label": labels[mean["method"]],
        "strength": "–" if mean["strength"] is None else f"{mean['strength']:g}",
        "seeds": str(mean["seeds"]),
        "kl": _with_error(mean["kl"], mean["kl_stderr"]),
        "reward": _with_error(mean["reward"], mean["reward_stderr"]),
        "share": share + ("" if mean["trusted"] else " ?"),
        "fluent": "–" if mean["fluent"] is None else percent(mean["fluent"]),
        "tokens": "–" if mean["tokens"] is None else f"{mean['tokens']:.0f}",
    }


def _with_error(value: float, error: float) -> str:
    """Two decimals for both: errors below 0.005 are shown as 0.01."""
    return f"{plain(value)} ± {max(error, 0.01):.2f}" if error else plain(value)
