"""The frontier's page."""

from pathlib import Path


def build_frontier_page(folder: Path) -> Path:
    return folder / "frontier.html"
