"""The page in a real browser: opens from disk, loads nothing, logs no error, and works."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from redpencil.report import build_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def plain(run_folder: Path) -> str:
    """The address of the page of a run without a notebook: only pairs.jsonl."""
    return build_report(run_folder).resolve().as_uri()


@pytest.fixture(scope="module")
def noted(noted_folder: Path) -> str:
    return build_report(noted_folder).resolve().as_uri()


def rewrite(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def column(page: Any, name: str) -> list[float]:
    names = page.locator(".pairs thead th").evaluate_all("all => all.map((th) => th.dataset.cell)")
    cells = page.locator(f"#rows tr:not(.detail) td:nth-child({names.index(name) + 1})")
    return [float(t.replace("−", "-").replace(",", "")) for t in cells.all_inner_texts()]


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opens_quietly_at_every_width(open_page: Open, noted: str, width: int, scheme: str):
    page = open_page(f"{noted}#pair-eval-3", width, color_scheme=scheme)
    assert [u for u in page.requested if not u.startswith(("file:", "data:", "blob:"))] == []
    assert page.locator(".chart svg").count() >= 10
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Tokens by log-ratio").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h1").inner_text() == "It worked"


def test_a_run_without_a_notebook_sorts_filters_and_turns(open_page: Open, plain: str):
    page = open_page(plain)
    first = column(page, "weight")
    assert len(first) == 25 and first == sorted(first, reverse=True) and min(first) > 0.5
    page.click("th[data-key=weight] button")
    assert column(page, "weight") == sorted(column(page, "weight"))
    page.click("[data-show=all]")
    expect(page.locator("#found")).to_have_text("500 pairs")
    page.click("#next")
    assert page.inner_text("#where") == "26 to 50 of 500"
    page.select_option("#sort", "longer")
    assert column(page, "longer") == sorted(column(page, "longer"), reverse=True)


def test_filters_by_kind_and_split_with_counts(open_page: Open, noted: str):
    page = open_page(noted)
    counts = {}
    for kind in ("corrected", "broken", "stubborn", "right"):
        page.click(f"[data-show={kind}]")
        counts[kind] = int(page.inner_text(f"[data-show={kind}] .count"))
        expect(page.locator("#found")).to_have_text(f"{counts[kind]} pairs")
        assert page.locator(f"#rows .sign.{kind}").count() == min(25, counts[kind])
    assert min(counts.values()) > 10 and sum(counts.values()) == 500
    in_table = page.locator(".kinds tbody tr").evaluate_all(
        "rows => rows.map((r) => [r.querySelector('b').textContent, r.cells[1].textContent])"
    )
    assert {name.lower(): int(n) for name, n in in_table} == counts
    page.click("[data-show=all]")
    page.click("[data-split=train]")
    expect(page.locator("#found")).to_have_text("60 pairs")
    page.click("[data-show=suspect]")
    expect(page.locator("#found")).to_have_text("4 pairs")
    assert page.locator("#rows .tag.red").first.inner_text() == "suspect: 0.050"


def test_searches_and_opens_a_pair_by_keys(open_page: Open, noted: str):
    page = open_page(noted)
    page.click("[data-show=all]")
    page.fill("#find", "film number 17.")
    expect(page.locator("#found")).to_have_text("2 pairs")
    page.press("#find", "ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("tr.detail .sides .text").count() == 2
    assert page.locator("tr.detail mark").count() >= 1
    assert page.locator("#rows .open").nth(1).get_attribute("aria-expanded") == "true"
    assert page.evaluate("location.hash").startswith("#pair-eval-")
    assert page.locator("tr.detail .course .dot").count() == 6
    page.keyboard.press("Escape")
    assert page.locator("tr.detail").count() == 0 and page.evaluate("location.hash") == ""
    assert page.evaluate("document.activeElement.className") == "open"


def test_arrow_keys_go_on_over_the_end_of_a_page(open_page: Open, noted: str):
    page = open_page(noted)
    page.click("[data-show=all]")
    page.locator("#rows .open").first.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#where") == "26 to 50 of 500"
    page.keyboard.press("ArrowUp")
    assert page.inner_text("#where") == "1 to 25 of 500"
    assert page.locator("#rows .open").nth(24).evaluate("b => b === document.activeElement")
    assert page.locator('#rows .open[tabindex="0"]').count() == 1


def test_tokens_are_coloured_and_read_by_keys(open_page: Open, noted: str):
    page = open_page(f"{noted}#pair-eval-3")
    assert page.locator("tr.detail .facts-line").inner_text() == "held out · pairs.jsonl, row 4"
    page.get_by_role("button", name="Tokens by log-ratio").click()
    sides = page.locator(".coloured")
    assert sides.count() == 2
    shown = sides.first.inner_text()
    page.get_by_role("button", name="Words that differ").click()
    assert page.locator("tr.detail .chosen .text").inner_text() == shown
    page.get_by_role("button", name="Tokens by log-ratio").click()
    ups = page.locator(".coloured .token.up").count()
    assert ups > 0 and page.locator(".coloured .token.down").count() > 0
    colours = page.locator(".coloured .token").evaluate_all(
        "all => new Set(all.map((t) => getComputedStyle(t).backgroundColor)).size"
    )
    assert colours > 4
    sides.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    value = page.inner_text(".tokens .value")
    assert value.startswith("Chosen, piece 2 of") and value.endswith("nats")
    page.get_by_text("Tokens as a table").click()
    table = page.locator(".tokens table tbody tr").nth(1).locator("td").all_inner_texts()
    assert table[1] in value


def test_a_reference_of_its_own_is_not_where_the_pair_began(
    open_page: Open, noted_run: Callable[..., Path]
):
    folder = noted_run(pairs=20)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"reference": "another/model"}))
    path = folder / "pairs.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    began, now = ([r for r in rows if r["step"] == s and r["split"] == "eval"] for s in (0, 200))
    for row in began:
        row["logp_chosen"] -= 30
    rewrite(path, rows)
    page = open_page(f"{build_report(folder).resolve().as_uri()}#pair-eval-3")
    table = page.locator("tr.detail .all table tbody tr")
    cells = table.evaluate_all("all => all.map((row) => row.innerText.split('\\t'))")
    first, last = began[3]["logp_chosen"], now[3]["logp_chosen"]
    read = {name: float(chosen.replace("−", "-")) for name, chosen, *_ in cells}
    assert read["before training"] == pytest.approx(first, abs=0.06)
    assert read["of the reference"] == pytest.approx(began[3]["ref_logp_chosen"], abs=0.06)
    assert read["moved by"] == pytest.approx(last - first, abs=0.06)
    page.click("[data-split=train]")
    page.click("[data-show=all]")
    page.locator("#rows .open").first.click()
    names = page.locator("tr.detail .all table tbody th").all_inner_texts()
    assert "of the reference" in names and "before training" not in names


def test_pieces_are_not_called_tokens(open_page: Open, noted_run: Callable[..., Path]):
    folder = noted_run(pairs=20)
    page = open_page(f"{build_report(folder).resolve().as_uri()}#pair-eval-3")
    page.get_by_role("button", name="Tokens by log-ratio").click()
    heading = page.locator(".tokens .chosen h4").inner_text()
    assert re.search(r"nats in \d+ pieces", heading), heading
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        row["length_chosen"] = len(row["chosen"].split(" "))
    rewrite(folder / "pairs.jsonl", rows)
    page = open_page(f"{build_report(folder).resolve().as_uri()}#pair-eval-3")
    page.get_by_role("button", name="Tokens by log-ratio").click()
    heading = page.locator(".tokens .chosen h4").inner_text()
    assert re.search(r"nats in \d+ tokens", heading), heading


def test_a_link_opens_its_pair_and_moves_on(open_page: Open, noted: str):
    page = open_page(f"{noted}#pair-train-40")
    assert page.locator("tr.detail .facts-line").inner_text().startswith("training · ")
    assert page.locator("#row-train-40").evaluate("r => r.classList.contains('opened')")
    page.get_by_role("button", name="Next", exact=True).first.click()
    assert page.locator("tr.detail").count() == 1
    assert page.evaluate("location.hash") != "#pair-train-40"


def test_differences_are_those_of_the_words(open_page: Open, plain: str):
    page = open_page(plain)
    script = """([a, b]) => differences(a, b).map(
        (side) => side.filter((n) => n.nodeName === 'MARK').map((n) => n.textContent.trim()))"""
    marked = page.evaluate(script, ["the film was good indeed", "the film was dull"])
    assert marked == [["good indeed"], ["dull"]]
    assert page.evaluate(script, ["same", "same"]) == [[], []]


def test_charts_are_read_by_pointer_and_keys(open_page: Open, plain: str):
    page = open_page(plain)
    chart = page.locator('[data-figure="loss"]')
    chart.focus()
    page.keyboard.press("End")
    assert "step 200" in chart.locator(".readout").inner_text()
    assert chart.locator(".readout b").count() == 2
    assert "step 200" in page.locator("#spoken").inner_text()
    page.keyboard.press("Escape")
    assert chart.locator(".readout").is_hidden()
    chart.hover()
    assert chart.locator(".readout").is_visible()


def test_nasty_texts_are_shown_as_they_are(
    open_page: Open, noted_run: Callable[..., Path], spoil: Callable[[Path], None]
):
    folder = noted_run(pairs=20)
    spoil(folder)
    page = open_page(build_report(folder).as_uri(), 390)
    page.on("dialog", lambda dialog: page.complaints.append(f"a script ran: {dialog.message}"))
    page.click("[data-show=all]")
    for row in range(page.locator("#rows .open").count()):
        page.locator("#rows .open").nth(row).click()
        tokens = page.get_by_role("button", name="Tokens by log-ratio")
        if tokens.count():
            tokens.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, row
    assert page.locator("img").count() == 0 and page.locator("iframe").count() == 0
    page.fill("#find", "<SCRIPT>alert(1)</script>")
    expect(page.locator("#found")).not_to_have_text(re.compile("^(0|20) pairs"))
    shown = page.locator("#rows .one").first
    assert shown.inner_text() == "<script>alert(1)</script>"
    assert shown.evaluate("e => getComputedStyle(e).unicodeBidi").startswith("isolate")


def test_on_paper_there_are_no_controls_and_nothing_is_folded(open_page: Open, noted: str):
    page = open_page(noted)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("nav").is_hidden() and page.locator("#notebook").is_hidden()
    assert page.locator(".plain .sample").count() == 10
    assert page.locator(".plain .sample").first.is_visible()
    assert page.locator("#data .diagnosis p").first.is_visible()
    assert page.locator("#recipe .facts").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator("#recipe").evaluate("d => d.open")


TURNS = {
    "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: what\nis this?\n\nAssistant:": "what is this?",
    "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhy is the sky blue?<|im_end|>\n"
    "<|im_start|>assistant\n": "Why is the sky blue?",
    "<s>[INST] Tell me [/INST] ok </s>[INST] And more? [/INST]": "And more?",
    "<|user|>\nhello there</s>\n<|assistant|>\n": "hello there",
    "<bos><start_of_turn>user\nhello<end_of_turn>\n<start_of_turn>model\n": "hello",
    "### Instruction:\nSay it.\n\n### Response:": "Say it.",
    "Question: 1 + 1?\nAnswer:": "1 + 1?",
    "Write a review of film number 3.\n\n": "Write a review of film number 3.",
    "A film that is\nuser friendly": "user friendly",
    "Assistant:": "(no prompt)",
    "": "(no prompt)",
}


def test_a_pair_is_titled_by_the_last_human_turn(open_page: Open, new_run: Callable[..., Path]):
    folder = new_run(pairs=len(TURNS))
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text("utf-8").splitlines()]
    for i, row in enumerate(rows):
        row["prompt"] = [*TURNS][i % len(TURNS)]
    rewrite(folder / "pairs.jsonl", rows)
    page = open_page(build_report(folder).resolve().as_uri())
    page.click("[data-show=all]")
    page.select_option("#sort", "place")
    titles = page.locator("#rows .one").all_inner_texts()
    assert sorted(titles) == sorted(TURNS.values())
    assert "Assistant:" not in titles


def pressed(page: Any) -> list[str]:
    return page.locator(".choice > button[aria-pressed=true]").evaluate_all(
        "all => all.map((b) => b.dataset.show || b.dataset.split)"
    )


def test_a_link_opens_under_the_filters_that_show_its_pair(
    open_page: Open, noted: str, noted_folder: Path
):
    page = open_page(noted)
    found = page.evaluate(
        """async () => {
            const book = new Notebook(JSON.parse(await inflate("pairs-data")));
            const first = {};
            for (const p of book.pairs) {
                first[`${p.split} ${p.kind} ${book.wrong(p)}`] ||= book.nameOf(p);
            }
            return first;
        }"""
    )
    assert len(found) >= 6
    for what, name in found.items():
        split, kind, wrong = what.rsplit(" ", 2)
        page = open_page(f"{noted}#pair-{name}")
        assert page.locator(f"#row-{name}").evaluate("r => r.classList.contains('opened')")
        show, of = pressed(page)
        assert show == ("wrong" if wrong == "true" else kind or "suspect"), what
        assert of == (split if split in ("eval", "train") else "all"), what
        assert page.locator("#rows tr:not(.detail)").count() >= 1


def test_a_link_from_within_finds_its_pair_again(open_page: Open, noted: str):
    page = open_page(noted)
    page.fill("#find", "no text has this")
    page.wait_for_timeout(300)
    page.evaluate("location.hash = '#pair-eval-3'")
    expect(page.locator("#row-eval-3")).to_have_class("opened")
    assert page.input_value("#find") == ""


def test_the_script_shows_rounding_as_zero(open_page: Open, plain: str):
    page = open_page(plain)
    script = "values => values.map((v) => [say(v), signed(v)])"
    said = page.evaluate(script, [0, 1e-8, -1e-8, 0.5, -0.5, 2e-4, None])
    assert [s for _, s in said] == ["0", "0", "0", "+0.500", "−0.500", "+2.0e-4", "–"]
    assert page.evaluate("[say(-0), say(0), say(0.0002)]") == ["0", "0", "2.0e-4"]
