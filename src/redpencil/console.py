"""What a person sees while things run: sentences on stdout, progress bars on stderr."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str, *, style: str = "") -> None:
    """Print one line as it is: brackets in data are never read as markup."""
    _out.print(Text(text, style=style))


def show(renderable: RenderableType) -> None:
    """Print a table or a text, wrapped at the window's width."""
    _out.print(renderable, soft_wrap=False)


def warn(text: str) -> None:
    """Print one line of warning on stderr."""
    _err.print(Text(f"warning: {text}", style="yellow"))


def complain(text: str) -> None:
    """Print the one sentence of an error on stderr."""
    _err.print(Text("error: ", style="bold red"), Text(text), sep="")


def progress_bar(*, extra: str = "") -> Progress:
    """A bar with count, time passed and time left; `extra` is a format of task fields."""
    columns = [
        TextColumn("{task.description:<21}"),
        BarColumn(bar_width=14, complete_style="red", finished_style="red"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    if extra:
        columns.append(TextColumn(extra))
    return Progress(*columns, console=_err, transient=False)


def one(item: object) -> int:
    return 1


def track(
    items: Iterable[T], *, what: str, total: int | None = None, size: Callable[[T], int] = one
) -> Iterator[T]:
    """Iterate with a progress bar labelled `what`; an item advances it by `size(item)`."""
    with progress_bar() as bar:
        row = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(row, size(item))
