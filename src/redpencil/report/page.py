"""From a run folder to `report.html`: one self-contained file, written whole or not at all."""

import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from redpencil.errors import RunFolderError
from redpencil.locks import alone_if_free
from redpencil.places import whole_file
from redpencil.report import facts
from redpencil.report.charts import draw, readable
from redpencil.report.diagnosis import diagnosis
from redpencil.report.embed import clean, cut, json_script, pack, whole_options
from redpencil.report.figures import curves, histograms
from redpencil.report.notebook_part import notebook_content
from redpencil.report.points import points
from redpencil.report.rundata import RunData, number, read_run
from redpencil.report.verdict import judge
from redpencil.report.wording import model_name, nats, plain, short

HERE = Path(__file__).parent

SAMPLES = 40
"""Samples shown; the rest stays in samples.jsonl."""

OURS = (b'name="generator" content="redpencil"', b" redpencil</title>")
"""What the head of every page says; older ones said it in their title."""

SCRIPTS = ("common.js", "charts.js", "diff.js", "list.js", "tokens.js", "pair.js", "notebook.js")


def build_run_report(run_folder: Path, out: Path | None = None) -> Path:
    """Write RUN/report.html, or `out`, from the run folder's files alone and return its path.

    Raises RunFolderError when the folder is not a run or the page cannot be written.
    """
    return write_page(out or run_folder / "report.html", render(read_run(run_folder)))


def write_page(target: Path, html: str) -> Path:
    """Write a page whole or not at all, over an older page but over nothing else.

    Raises RunFolderError where that cannot be.
    """
    try:
        if target.exists() and not _is_page(target):
            raise RunFolderError(f"{target} is not a report of redpencil; name another file")
        with alone_if_free(target.parent), whole_file(target) as file:
            file.write(html)
    except OSError as error:
        raise RunFolderError(f"{target} cannot be written: {error.strerror}") from error
    return target


def _is_page(path: Path) -> bool:
    """Whether a file is a page of ours; an empty one may be replaced too."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(2_000)
    return not head or any(mark in head for mark in OURS)


def render(run: RunData, refresh: str = "") -> str:
    """The page of a run. Same run, same bytes. refresh: "ADDRESS?VERSION" where a watched
    page asks whether it is still current, "" for a page that asks nobody."""
    figures = [*points(run), *histograms(run), *curves(run)]
    drawn = [{**figure, "drawing": draw(figure)} for figure in figures]
    content: dict[str, Any] = {
        "run": run,
        "verdict": judge(run),
        **{
            f"{kind}s": [f for f in drawn if f["kind"].removesuffix("s") == kind]
            for kind in ("curve", "histogram", "point")
        },
        "figures_json": json_script([readable(f) for f in drawn]),
        **notebook_content(run),
        "samples": _samples(run),
        "samples_count": len(run.samples),
        "data_facts": facts.data_facts(run),
        "notes": [str(note) for note in run.data.get("notes") or []],
        "diagnosis": diagnosis(run),
        "set_aside": facts.set_aside(run),
        "run_facts": facts.run_facts(run),
        "recipe_facts": facts.recipe_facts(run),
        "reproduce": facts.reproduce(run),
        "progress": facts.progress(run, bool(refresh)),
        **watched_content(refresh),
        "css": text_of("page.css", "notebook.css"),
        "js": text_of(*SCRIPTS, *(["watch.js"] if refresh else []), "page.js"),
    }
    return fill("page.html", content)


def watched_content(refresh: str) -> dict[str, str]:
    """The address that a watched page may ask, and the version that it is."""
    address, _, version = refresh.partition("?")
    return {"refresh": address, "version": version}


def fill(template: str, content: dict[str, Any]) -> str:
    """A template with its content and a nonce. Only scripts with this page's own nonce run: text
    from data could not start one even if it got past the escaping."""
    shown = sorted((name, value) for name, value in content.items() if name != "run")
    nonce = hashlib.blake2b(repr(shown).encode("utf-8", "replace"), digest_size=12)
    return environment().get_template(template).render(**content, nonce=nonce.hexdigest())


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
    environment.filters.update(
        cut=cut, model_name=model_name, nats=nats, short=short, whole_options=whole_options
    )
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
