"""From a run folder to `report.html`: one self-contained file, written whole or not at all."""

import hashlib
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from redpencil.errors import RunFolderError
from redpencil.report import facts
from redpencil.report.embed import LONGEST_TEXT, clean, cut, json_script, pack, pack_pairs
from redpencil.report.figures import curves, histograms
from redpencil.report.points import points
from redpencil.report.rundata import RunData, number, read_run
from redpencil.report.verdict import judge
from redpencil.report.wording import plain, short

HERE = Path(__file__).parent

SAMPLES = 40
"""Samples shown; the rest stays in samples.jsonl."""

WITHOUT_SCRIPT = 10
"""Wrong pairs shown where the browser runs no script."""


def build_run_report(run_folder: Path) -> Path:
    """Write RUN/report.html from the run folder's files alone and return its path.

    Raises RunFolderError when the folder is not a run or cannot be written.
    """
    html = render(read_run(run_folder))
    return write_page(run_folder / "report.html", html)


def write_page(target: Path, html: str) -> Path:
    """Write a page whole or not at all. Raises RunFolderError where that cannot be."""
    scratch = target.with_name(f".{target.name}.partial")
    try:
        scratch.write_text(html, encoding="utf-8")
        os.replace(scratch, target)
    except OSError as error:
        raise RunFolderError(f"{target} cannot be written: {error.strerror}") from error
    return target


def render(run: RunData) -> str:
    """The page of a run. Same run, same bytes."""
    figures = curves(run)
    shapes = histograms(run)
    dots = points(run)
    packed, shortest = pack_pairs(run.after) if run.after else ("", LONGEST_TEXT)
    wrong = sorted(
        (p for p in run.after if p.correct is not None and p.correct < 1),
        key=lambda p: -(p.weight or 0.0),
    )
    content: dict[str, Any] = {
        "run": run,
        "verdict": judge(run),
        "curves": figures,
        "histograms": shapes,
        "points": dots,
        "figures_json": json_script([*figures, *shapes, *dots]),
        "pairs_packed": packed,
        "pairs_shortest": shortest,
        "wrong": wrong[:WITHOUT_SCRIPT],
        "wrong_count": len(wrong),
        "samples": _samples(run),
        "samples_count": len(run.samples),
        "data_facts": facts.data_facts(run),
        "notes": [str(note) for note in run.data.get("notes") or []],
        "set_aside": facts.set_aside(run),
        "run_facts": facts.run_facts(run),
        "recipe_facts": facts.recipe_facts(run),
        "reproduce": facts.reproduce(run),
        "plotly_packed": plotly() if figures or shapes or dots else "",
        "css": text_of("page.css"),
        "js": text_of("common.js", "page.js"),
    }
    # Only scripts with this page's own nonce run: text from data could not start one even if it
    # got past the escaping.
    nonce = hashlib.blake2b(
        repr(sorted(content.items())).encode("utf-8", "replace"), digest_size=12
    )
    return environment().get_template("page.html").render(**content, nonce=nonce.hexdigest())


def environment() -> Environment:
    """Of the pages' templates: everything is escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters.update(cut=cut, short=short)
    return environment


def _finalize(value: object) -> object:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _samples(run: RunData) -> list[dict[str, str]]:
    """Samples that have both sides, or the reference's alone while a run trains."""
    rows = []
    for sample in run.samples[:SAMPLES]:
        row = {"prompt": str(sample.get("prompt") or "")}
        for side in ("reference", "policy"):
            row[side] = str(sample.get(side) or "") if side in sample else "–"
            score = number(sample, f"{side}_score")
            row[f"{side}_score"] = "" if score is None else plain(score)
        rows.append(row)
    return rows


def text_of(*names: str) -> Markup:
    """The text of this room's own files, one after the other."""
    return Markup("".join((HERE / name).read_text(encoding="utf-8") for name in names))


def plotly() -> str:
    """The plotting library, packed for a page."""
    from plotly.offline import get_plotlyjs

    return pack(get_plotlyjs())
