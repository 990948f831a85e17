"""The report: reads a run folder, writes one self-contained page. Never imports torch."""

from pathlib import Path

from redpencil.report.frontier_page import FRONTIER, build_frontier_page
from redpencil.report.page import build_run_report

__all__ = ["build_report"]


def build_report(folder: Path) -> Path:
    """Write the page of a run, or of a frontier, from the folder's files and return its path.

    Raises RunFolderError when the folder is neither or cannot be written.
    """
    if (folder / FRONTIER).is_file():
        return build_frontier_page(folder)
    return build_run_report(folder)
