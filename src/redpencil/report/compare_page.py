"""From several run folders to one page that shows them side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redpencil.errors import RunFolderError
from redpencil.intervals import Z95
from redpencil.report import facts
from redpencil.report.charts import draw, readable
from redpencil.report.compare import (
    Shared,
    cautions,
    duels,
    headline,
    names_of,
    options,
    shared_pairs,
)
from redpencil.report.embed import cut, json_script, pack
from redpencil.report.overlay import overlays, style_of_run
from redpencil.report.packing import LONGEST, digits
from redpencil.report.page import fill, text_of, watched_content, write_page
from redpencil.report.rundata import RunData, mapping, number, read_run
from redpencil.report.verdict import judge
from redpencil.report.wording import nats, percent, percent_range, plain, points, short, with_half

MOST_RUNS = 8
"""More curves than this cannot be told apart."""

DISPUTED = 2_000
"""Disputed pairs that the page lists, those farthest apart first."""

SAMPLES = 12

Content = dict[str, Any]


def build_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write a page of several runs side by side and return its path.

    Raises RunFolderError when a folder is no run, there are too many, `out` cannot be written, or
    it holds something that is not a report.
    """
    return write_page(out, render_comparison(folders))


def render_comparison(folders: Sequence[Path], refresh: str = "") -> str:
    """The page. Same runs, same bytes. refresh: as in `page.render`."""
    if not 2 <= len(folders) <= MOST_RUNS:
        raise RunFolderError(f"{len(folders)} runs: between 2 and {MOST_RUNS} can be compared")
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise RunFolderError(f"{folder} is named twice; compare different runs")
        seen[folder.resolve()] = folder
    runs = [read_run(folder) for folder in folders]
    names = [cut(name, 120) for name in names_of(runs, [str(folder) for folder in folders])]
    return fill("compare.html", _content(runs, names) | watched_content(refresh) | _script(refresh))


def _script(refresh: str) -> Content:
    scripts = ["common.js", "charts.js", "diff.js", "list.js", "compare.js"]
    scripts += ["watch.js"] if refresh else []
    return {
        "js": text_of(*scripts, "page.js"),
        "css": text_of("page.css", "notebook.css", "compare.css"),
    }


def _content(runs: Sequence[RunData], names: Sequence[str]) -> Content:
    fights, shared = duels(runs), shared_pairs(runs)
    disputed = sorted((s for s in shared if s.disputed), key=lambda s: -s.gap)
    title, sentence = headline(names, fights)
    figures = [{**figure, "drawing": draw(figure)} for figure in overlays(runs, names)]
    samples, sampled = _samples(runs)
    return {
        "names": names,
        "styles": [style_of_run(i) for i in range(len(runs))],
        "headline": title,
        "sentence": sentence,
        "cautions": cautions(runs, names, len(shared)),
        "verdicts": [_verdict(run, name) for run, name in zip(runs, names, strict=True)],
        "duels": [_row(duel, names) for duel in fights],
        "options": options(runs),
        "curves": figures,
        "figures_json": json_script([readable(f) for f in figures]),
        "shared_count": len(shared),
        "disputed_count": len(disputed),
        "disputed_shown": min(len(disputed), DISPUTED),
        "pairs_packed": _packed(disputed[:DISPUTED], names) if disputed else "",
        "shows": _shows(disputed[:DISPUTED], names),
        "sorts": _sorts(names),
        "samples": samples,
        "samples_count": sampled,
        "again": [(name, facts.reproduce(run)) for name, run in zip(names, runs, strict=True)],
        "progress": facts.progress_of_all(runs),
    }


def _verdict(run: RunData, name: str) -> Content:
    """A run's row: its own verdict and numbers, with intervals where they are known."""
    verdict = judge(run)
    summary = run.summary or {}
    margins = run.mean_margin
    true = mapping(summary, "true_reward")
    error = number(true, "stderr_after")
    true_half = None if error is None else Z95 * error
    what = [str(run.recipe.get(key)) for key in ("stage", "loss") if run.recipe.get(key)]
    accuracy = verdict.accuracy
    return {
        "name": name,
        "what": " · ".join(dict.fromkeys(what)),
        "headline": verdict.headline,
        "tone": verdict.tone,
        "steps": f"{run.steps:,}",
        "accuracy": accuracy,
        "share": percent(accuracy.value) if accuracy else "–",
        "interval": percent_range(accuracy.low, accuracy.high) if accuracy else "",
        "of": f"{accuracy.count:,} pairs" if accuracy else "",
        "margin": with_half(margins.value, margins.half)
        if margins
        else nats(run.held_out("rewards/margins")[1]),
        "kl": with_half(run.kl, run.kl_half),
        "true": with_half(number(true, "after"), true_half),
        "perplexity": short(run.held_out("perplexity")[1]),
        "reward": nats(run.held_out("reward")[1]),
        "worries": [f.title for f in verdict.worries],
    }


def _row(duel: Any, names: Sequence[str]) -> Content:
    """Two runs' counts, in words."""
    return {
        "first": duel.first,
        "second": duel.second,
        "names": (names[duel.first], names[duel.second]),
        "counts": [
            f"{n:,}"
            for n in (duel.total, duel.both, duel.only_first, duel.only_second, duel.neither)
        ],
        "difference": points(duel.difference, duel.half),
        "p": "< 0.001" if duel.p < 0.001 else short(duel.p, 2),
        "sure": duel.clear,
    }


def _packed(disputed: Sequence[Shared], names: Sequence[str]) -> str:
    texts: dict[str, int] = {}

    def place(text: str) -> int:
        return texts.setdefault(cut(text, LONGEST if len(disputed) <= 500 else 1000), len(texts))

    rows = []
    for s in disputed:
        first = s.pairs[0]
        said = [place(t) for t in (first.prompt, first.chosen, first.rejected, first.file)]
        numbers = [
            [digits(v) for v in (p.margin, p.reward_chosen, p.reward_rejected, p.weight)]
            for p in s.pairs
        ]
        rows.append([*said, first.row, first.pair, numbers])
    content = {"names": list(names), "texts": [*texts], "rows": rows}
    return pack(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def _shows(disputed: Sequence[Shared], names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Filters: who alone is right, who alone is wrong."""
    found = {s.right for s in disputed}
    shows = []
    for i, name in enumerate(names):
        alone = tuple(j == i for j in range(len(names)))
        if alone in found:
            shows.append((f"right-{i}", f"Only {name} is right", "the others are wrong or tied"))
    for i, name in enumerate(names if len(names) > 2 else []):
        if tuple(j != i for j in range(len(names))) in found:
            shows.append((f"wrong-{i}", f"Only {name} is wrong", "all others are right"))
    return [("all", "All", "every pair that the runs dispute"), *shows]


def _sorts(names: Sequence[str]) -> list[tuple[str, str]]:
    sorts = [("gap", "how far apart")]
    sorts += [(f"margin{i}", f"margin of {name}") for i, name in enumerate(names)]
    return [*sorts, ("place", "as stored")]


def _samples(runs: Sequence[RunData]) -> tuple[list[Content], int]:
    """What each run says to prompts that all of them were given, and how many there are."""
    by_prompt = [
        {str(s.get("prompt") or ""): s for s in reversed(run.samples) if "policy" in s}
        for run in runs
    ]
    common = [p for p in reversed(by_prompt[0]) if all(p in each for each in by_prompt)]
    rows = []
    for prompt in common[:SAMPLES]:
        said = []
        for each in by_prompt:
            score = number(each[prompt], "policy_score")
            text = str(each[prompt].get("policy") or "")
            said.append((text, "" if score is None else plain(score)))
        references = {str(each[prompt].get("reference") or "") for each in by_prompt}
        reference = references.pop() if len(references) == 1 else None
        rows.append({"prompt": prompt, "reference": reference, "said": said})
    return rows, len(common)
