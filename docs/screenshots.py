"""Takes the pictures of the report in docs/screens/, light and dark.

`make screenshots` runs it. It needs playwright (the extra `screens`) and a Chromium: the one that
REDPENCIL_CHROMIUM names, one on the PATH, or playwright's own. Runs that are not there are made
first: the demo, and the same pairs again with another beta.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCREENS = Path(__file__).parent / "screens"

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--no-zygote"]

WIDE, HIGHEST = 1160, 1500
"""Pixels of a picture."""

EDGES = "e => [0, e.offsetHeight].map((y) => y + scrollY + e.getBoundingClientRect().top)"
"""Where an element begins and ends on its page."""

SECOND = "--beta 1 --epochs 2 --batch-size 16 --learning-rate 5e-4 --max-length 128 --eval-every 11"
SECOND += " --checkpoint-every 57 --eval-fraction 0.1 --sample-prompts 32 --sample-tokens 96"
SECOND += " --warmup-steps 5 --schedule linear"

Shot = Callable[[Any, Path], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/screens"))
    folder = parser.parse_args().runs
    first, second = folder / "demo" / "dpo", folder / "beta-1"
    if not (first / "summary.json").is_file():
        redpencil("demo", "--out", str(folder / "demo"))
    if not (second / "summary.json").is_file():
        model, data = folder / "demo" / "sft" / "model", folder / "demo" / "world" / "pairs.jsonl"
        made = ["--model", str(model), "--data", str(data), "--out", str(second)]
        redpencil("dpo", *made, *SECOND.split())
    if not (first / "suspects.jsonl").is_file():
        redpencil("note", str(first), "--suspects")
    redpencil("report", str(first))
    compared = folder / "compare.html"
    redpencil("report", str(first), str(second), "--out", str(compared))
    take(first / "report.html", compared)


def redpencil(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "redpencil.cli.main", *arguments], check=True)


def take(report: Path, compared: Path) -> None:
    """Every part of both pages, light and dark."""
    from playwright.sync_api import sync_playwright

    SCREENS.mkdir(exist_ok=True)
    named = os.environ.get("REDPENCIL_CHROMIUM")
    found = named or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=ARGUMENTS)
        for scheme in ("light", "dark"):
            for page_file, name, shot in shots(report, compared):
                width, high = (390, 844) if name == "phone" else (WIDE, 900)
                page = browser.new_page(
                    viewport={"width": width, "height": high}, color_scheme=scheme
                )
                page.goto(page_file.resolve().as_uri())
                page.wait_for_selector("html[data-drawn]")
                target = SCREENS / f"{name}-{scheme}.png"
                shot(page, target)
                page.close()
                print(f"{target}  {target.stat().st_size // 1000} kB")
        browser.close()


def shots(report: Path, compared: Path) -> list[tuple[Path, str, Shot]]:
    """(page, name of the picture, how it is taken)."""
    return [
        (report, "verdict", part("#verdict", "#worries")),
        (report, "curves", part("#curves")),
        (report, "notebook", notebook),
        (report, "tokens", tokens),
        (report, "data", data),
        (report, "phone", lambda page, target: page.screenshot(path=target)),
        (compared, "compare", part("#verdict", "#runs", "#duels")),
        (compared, "compare-curves", part("#curves")),
    ]


def part(*selectors: str) -> Shot:
    """From the top of the first of these elements to the end of the last, with some air."""

    def shot(page: Any, target: Path) -> None:
        found = [page.locator(s).first for s in selectors if page.locator(s).count()]
        edges = [place.evaluate(EDGES) for place in found]
        top = max(0, min(top for top, _ in edges) - 24)
        high = min(max(bottom for _, bottom in edges) + 24 - top, HIGHEST)
        clip = {"x": 0, "y": top, "width": WIDE, "height": high}
        page.screenshot(path=target, full_page=True, clip=clip)

    return shot


def notebook(page: Any, target: Path) -> None:
    """The list with a broken pair opened, the first one that has a course."""
    page.click("[data-show=broken]")
    page.locator("#rows .open").nth(1).click()
    part("#pairs")(page, target)


def tokens(page: Any, target: Path) -> None:
    """A held-out pair with its tokens coloured and one of them read."""
    page.click("[data-show=broken]")
    page.locator("#rows .open", has_text="tokens").first.click()
    page.get_by_role("button", name="Tokens by log-ratio").click()
    page.locator(".coloured .token.down").first.hover()
    page.locator("tr.detail .pair").screenshot(path=target)


def data(page: Any, target: Path) -> None:
    """The data's findings, the first of them opened."""
    page.locator("#data details").first.evaluate("d => { d.open = true; }")
    part("#data")(page, target)


if __name__ == "__main__":
    main()
