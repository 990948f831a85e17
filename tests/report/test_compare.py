"""Several runs side by side: what is compared, what is not, and the page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from redpencil.errors import RunFolderError
from redpencil.report import build_comparison
from redpencil.report.compare import (
    cautions,
    duels,
    headline,
    mcnemar,
    names_of,
    options,
    shared_pairs,
)
from redpencil.report.estimates import half_interval
from redpencil.report.overlay import overlays
from redpencil.report.pairs import Pair
from redpencil.report.rundata import RunData, read_run
from redpencil.report.wording import with_half


def pair(row: int, margin: float, prompt: str = "") -> Pair:
    return Pair(
        prompt=prompt or f"p{row}", chosen=f"good {row}", rejected="bad", row=row, margin=margin
    )


def run(name: str, margins: list[float], **recipe: object) -> RunData:
    pairs = [pair(row, margin) for row, margin in enumerate(margins)]
    given = {"stage": "dpo", "loss": "dpo", "beta": 0.1, **recipe}
    return RunData(name=name, recipe=given, after=pairs, summary={"status": "done"})


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 3) == pytest.approx(2 * (1 + 4) / 16)
    assert mcnemar(4, 4) == 1


def test_an_interval_of_groups_by_hand():
    # Four groups of one: the usual standard error of a mean.
    assert half_interval([[0.0], [1.0], [0.0], [1.0]]) == pytest.approx(
        1.959964 * 0.288675, rel=1e-5
    )
    # Copies of a draw are one draw: the interval does not shrink.
    assert half_interval([[0.0] * 5, [1.0] * 5, [0.0] * 5, [1.0] * 5]) == pytest.approx(
        half_interval([[0.0], [1.0], [0.0], [1.0]])
    )
    assert half_interval([[1.0, 2.0]]) is None
    margins = RunData(name="r", after=[pair(1, 1.0), pair(2, 3.0)]).mean_margin
    assert (margins.value, margins.half) == (2.0, pytest.approx(1.959964))


def test_pairs_are_shared_where_row_and_answers_agree():
    first, second = run("a", [1, 1, -1, 0, -1]), run("b", [1, -1, 1, 1, -1])
    shared = shared_pairs([first, second])
    assert [s.right for s in shared] == [
        (True, True), (True, False), (False, True), (False, True), (False, False),
    ]  # fmt: skip
    (duel,) = duels([first, second])
    assert (duel.both, duel.only_first, duel.only_second, duel.neither) == (1, 1, 2, 1)
    assert duel.difference == pytest.approx(0.2) and not duel.clear
    other = RunData(name="c", after=[Pair(prompt="p0", chosen="other", rejected="bad", row=0)])
    assert shared_pairs([first, other]) == [] and duels([first, other]) == []


def test_a_clear_lead_is_said_and_chance_is_not():
    ahead, behind = run("ahead", [1.0] * 60 + [-1.0] * 40), run("behind", [-1.0] * 40 + [1.0] * 60)
    equal = headline(["ahead", "behind"], duels([ahead, behind]))
    assert equal[0] == "No clear difference" and "Chance" in equal[1]
    best = run("best", [1.0] * 90 + [-1.0] * 10)
    title, text = headline(["behind", "best"], duels([behind, best]))
    assert title == "best is ahead" and "+30.0" in text and "100\u00a0held-out pairs" in text
    assert headline(["ahead", "behind", "best"], duels([ahead, behind, best]))[0] == "best is ahead"
    assert headline(["a", "b"], [])[0] == "2 runs, nothing to compare"


def test_a_few_pairs_that_turned_are_no_lead():
    """Of 100 pairs 4 turned, all one way: the interval leaves 0 out, the exact test does not."""
    before, later = run("a", [1.0] * 50 + [-1.0] * 50), run("b", [1.0] * 54 + [-1.0] * 46)
    (duel,) = duels([before, later])
    assert duel.p == 0.125 and duel.difference > duel.half and not duel.clear
    assert headline(["a", "b"], [duel])[0] == "No clear difference"
    (duel,) = duels([run("a", [-1.0] * 2), run("b", [1.0] * 2)])
    title, text = headline(["a", "b"], [duel])
    assert title == "No clear difference" and "+100.0 points" in text and "±" not in text
    (duel,) = duels([run("a", [-1.0] * 10), run("b", [1.0] * 10)])
    assert headline(["a", "b"], [duel])[0] == "b is ahead"
    assert with_half(0.5, 0.0) == "0.500"


def test_only_differing_options_are_listed():
    runs = [
        run("a", [1.0], out="runs/a", seed=0),
        run("b", [1.0], out="runs/b", seed=1, alpha=None),
    ]
    assert options(runs) == [("seed", ["0", "1"])]
    assert names_of([*runs, run("a", [])], ["x/a", "b", "y/a"]) == ["x/a", "b", "y/a"]


def test_what_cannot_be_compared_is_said():
    ipo = run("b", [1.0], loss="ipo", beta=0.2, model="other", data="more.jsonl")
    said = " ".join(cautions([run("a", [1.0, 2.0]), ipo], ["a", "b"], 1))
    for words in ("objectives differ (a: dpo, b: ipo)", "β differs", "different models"):
        assert words in said
    assert "different data" in said and "(a: 2, b: 1 by each)" in said
    assert "stages differ" in cautions([run("a", []), run("c", [], stage="reward")], "ac", 0)[0]
    assert cautions([run("a", [1.0]), run("b", [1.0])], "ab", 1) == []
    unfinished = RunData(name="u", recipe={"stage": "dpo", "loss": "dpo", "beta": 0.1})
    assert cautions([run("a", []), unfinished], "au", 0) == ["u is not finished: step 0."]


def test_losses_of_different_objectives_share_no_axes(run_folder: Path):
    one = read_run(run_folder)
    assert [f["id"] for f in overlays([one, one], ["a", "b"])][:2] == ["accuracy", "loss"]
    other = RunData(
        name="o", recipe={**one.recipe, "loss": "ipo"}, train=one.train, evals=one.evals
    )
    figures = overlays([one, other], ["a", "b"])
    assert "loss" not in [f["id"] for f in figures]
    assert {s["style"] for s in figures[0]["series"]} == {"run0", "run1 dashed"}


@pytest.fixture
def two_runs(noted_run: Callable[..., Path]) -> list[Path]:
    first, second = noted_run("first", pairs=60), noted_run("second", pairs=60)
    rows = [json.loads(line) for line in (second / "pairs.jsonl").read_text("utf-8").splitlines()]
    for row in rows[::4]:
        row["margin"] = -row["margin"]
    (second / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = yaml.safe_load((second / "recipe.yaml").read_text())
    (second / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "seed": "<script>1</script>"}))
    return [first, second]


def test_the_page_says_who_is_ahead_and_is_only_ours_to_overwrite(
    two_runs: list[Path], tmp_path: Path
):
    out = tmp_path / "compare.html"
    assert build_comparison(two_runs, out) == out
    html = out.read_text("utf-8")
    first = out.read_bytes()
    assert build_comparison(two_runs, out).read_bytes() == first
    assert "of 60 held-out pairs that all of them measured" in html
    assert "<script>1" not in html and "&lt;script&gt;1" in html
    assert "connect-src" not in html.split("<script")[0]
    for name, text in (("mine.html", "<title>mine</title>"), ("notes.txt", "x")):
        (tmp_path / name).write_text(text)
        with pytest.raises(RunFolderError, match="not a report"):
            build_comparison(two_runs, tmp_path / name)
        assert (tmp_path / name).read_text() == text
    with pytest.raises(RunFolderError, match="cannot be written"):
        build_comparison(two_runs, tmp_path / "nowhere" / "compare.html")
    with pytest.raises(RunFolderError, match="twice"):
        build_comparison([two_runs[0], two_runs[0]], out)
    with pytest.raises(RunFolderError, match="between 2 and 8"):
        build_comparison(two_runs * 5, out)


def test_disputes_are_filtered_sorted_and_opened(
    open_page: Callable[..., Any], two_runs: list[Path], tmp_path: Path
):
    out = build_comparison(two_runs, tmp_path / "compare.html")
    for width in (390, 1200):
        page = open_page(out.as_uri(), width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.requested == [out.as_uri(), "data:,"] or page.requested == [out.as_uri()]
    total = int(page.inner_text("[data-show=all] .count"))
    alone = [int(page.inner_text(f"[data-show=right-{i}] .count")) for i in (0, 1)]
    assert sum(alone) == total > 5
    page.click("[data-show=right-1]")
    assert page.inner_text("#found").startswith(f"{alone[1]} pair")
    first = page.locator("#rows td:nth-child(2)").all_inner_texts()
    assert all(text.startswith("✕") for text in first)
    page.select_option("#sort", "margin1")
    margins = [
        float(t[2:].replace("−", "-"))
        for t in page.locator("#rows td:nth-child(3)").all_inner_texts()
    ]
    assert margins == sorted(margins, reverse=True)
    page.locator("#rows .open").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("tr.detail tbody tr").count() == 2
    assert page.locator("tr.detail .sides .text").count() == 2
    page.keyboard.press("Escape")
    assert page.locator("tr.detail").count() == 0
