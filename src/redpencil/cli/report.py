"""`redpencil report`: the page of a run, of several side by side, or one that follows a run."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from redpencil.console import say
from redpencil.errors import RecipeError
from redpencil.places import path_of

Add = Callable[..., argparse.ArgumentParser]

COMPARISON = Path("compare.html")
"""Where several runs side by side are written unless --out names a file."""

BEFOREHAND = "preferred-ft"
"""What a run folder may hold before the run itself begins: its reference's own run."""


def add_report(command: Add) -> None:
    made = command(
        "report",
        _report,
        "(re)build the page of a run or a frontier, or compare several runs",
        "redpencil report runs/first\n"
        "  redpencil report runs/first runs/second --out compare.html\n"
        "  redpencil report runs/first --watch",
    )
    made.add_argument("runs", nargs="+", metavar="RUN", help="one run, or several to compare")
    made.add_argument(
        "--out",
        metavar="FILE",
        help="where to write (RUN/report.html; compare.html here for several)",
    )
    made.add_argument(
        "--watch", action="store_true", help="serve a page that follows the run, until Ctrl-C"
    )
    made.add_argument("--port", metavar="N", help="for --watch (8765, or a free one)")


def _report(args: argparse.Namespace) -> None:
    folders = [path_of(run) for run in args.runs]
    if args.watch:
        if args.out:
            raise RecipeError("--out does nothing with --watch: the page is served, not written")
        _watch(folders, _port(args.port))
        return
    if args.port is not None:
        raise RecipeError("--port does nothing without --watch")
    from redpencil.report import build_comparison, build_report

    if len(folders) == 1:
        print(build_report(folders[0], path_of(args.out) if args.out else None))
    else:
        print(build_comparison(folders, path_of(args.out) if args.out else COMPARISON))


def _port(typed: str | None) -> int | None:
    if typed is None:
        return None
    if not typed.isdecimal() or not 1 <= int(typed) <= 65535:
        raise RecipeError(f"--port {typed!r} is not a port: a number from 1 to 65535")
    return int(typed)


def _watch(folders: list[Path], port: int | None) -> None:
    from redpencil.report import watch_report

    try:
        for folder in folders:
            _wait_for(folder)
        with watch_report(folders, port) as server:
            say(f"watching  {', '.join(map(str, folders))}: {server.address}  (Ctrl-C ends it)")
            server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:  # how it is meant to end
        pass


def _wait_for(folder: Path) -> None:
    """Until a run that was only just started has written something; one that is there is watched
    at once, and what is no run is refused by whoever reads it."""
    from redpencil.report.rundata import is_run

    def begun() -> bool:
        inside = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
        other = {name for name in inside if not name.startswith(".")} - {BEFOREHAND}
        return is_run(folder) or bool(other) or folder.is_file()

    if not begun():
        say(f"waiting   for {folder} to begin  (Ctrl-C ends it)")
        while not begun():
            time.sleep(0.3)
