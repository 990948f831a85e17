"""The report: reads run folders, writes one self-contained page. Never imports torch."""

from pathlib import Path

from redpencil.errors import RunFolderError, not_a
from redpencil.places import path_of
from redpencil.report.card import model_card
from redpencil.report.compare_page import build_comparison, render_comparison
from redpencil.report.conclusion import conclusion
from redpencil.report.frontier_page import FRONTIER, build_frontier_page
from redpencil.report.page import build_run_report, render
from redpencil.report.rundata import read_run
from redpencil.report.watch import PAUSE, Server, Watched, serve

__all__ = ["build_comparison", "build_report", "conclusion", "model_card", "watch_report"]


def build_report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the page of a run, or of a frontier, from the folder's files and return its path.

    out: where, if not in the folder itself. Raises RunFolderError when the folder is neither, the
    page cannot be written, or `out` holds something that is not a report.
    """
    for name, path in (("folder", folder), ("out", out or folder)):
        if not isinstance(path, str | Path):
            raise not_a(f"build_report: {name}", "a path", path)
    folder, out = path_of(folder), None if out is None else path_of(out)
    if (folder / FRONTIER).is_file():
        return build_frontier_page(folder, out)
    return build_run_report(folder, out)


def watch_report(folders: list[Path], port: int | None = None, pause: float = PAUSE) -> Server:
    """A server of the page of a run, or of several side by side, that follows their files; its
    `address` is what a browser opens, `serve_forever()` runs it.

    port: None takes 8765, or a free one. pause: seconds that a page lasts at least, 0 for a new one
    at every change. Raises RunFolderError when a folder is no run or the port cannot be had.
    """
    for folder in folders:
        if (folder / FRONTIER).is_file():
            raise RunFolderError(
                f"{folder} is a frontier, which is not watched: it is made at once"
            )
    if len(folders) == 1:
        return serve(Watched(folders, lambda ask: render(read_run(folders[0]), ask), pause), port)
    return serve(Watched(folders, lambda ask: render_comparison(folders, ask), pause), port)
