"""What a person sees while things run: sentences on stdout, progress bars on stderr.

Where both are one terminal, sentences go through the bar that is shown, which moves out of their
way. Where stderr is none (a batch job's log), bars are not drawn and what matters is said in lines.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Self, TypeVar

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")
Verbosity = Literal["quiet", "normal", "verbose"]

_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)
_shown: list["_Bar"] = []
"""Bars on the screen, the innermost last."""
_verbosity: Verbosity = "normal"


def set_verbosity(verbosity: Verbosity) -> None:
    """quiet: results, warnings and errors only. verbose: more lines, also beside a bar."""
    global _verbosity
    _verbosity = verbosity


def wants_lines() -> bool:
    """Whether progress is to be said in lines: where no bar shows it, or when asked for."""
    return _verbosity == "verbose" or (_verbosity == "normal" and not _err.is_terminal)


def is_verbose() -> bool:
    return _verbosity == "verbose"


def say(text: str, *, style: str = "", result: bool = False) -> None:
    """Print one line as it is: brackets in data are never read as markup.

    result: what a command was started for; it is said when quiet, too.
    """
    if result or _verbosity != "quiet":
        _beside_bars().print(Text(text, style=style))


def show(renderable: RenderableType) -> None:
    """Print a table or a text, wrapped at the window's width."""
    _beside_bars().print(renderable, soft_wrap=False)


def warn(text: str) -> None:
    """Print one line of warning on stderr."""
    _err.print(Text(f"warning: {text}", style="yellow"))


def warn_once(text: str) -> None:
    """A warning that this process has not printed yet."""
    if text not in _warned:
        _warned.add(text)
        warn(text)


_warned: set[str] = set()


def complain(text: str) -> None:
    """Print the one sentence of an error on stderr."""
    _err.print(Text("error: ", style="bold red"), Text(text), sep="")


def _beside_bars() -> Console:
    """Where a sentence goes: a terminal's bar must know of it, or it is drawn over it."""
    return _err if _shown and _out.is_terminal and _err.is_terminal else _out


class _Bar(Progress):
    """A progress bar that sentences know of."""

    def __enter__(self) -> Self:
        _shown.append(self)
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            super().__exit__(*error)  # type: ignore[arg-type]
        finally:
            _shown.remove(self)


class _TimeLeft(TimeRemainingColumn):
    """Seconds that the task's own estimate gives (its field `left`), else by its recent speed."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        seconds = task.fields.get("left")
        if seconds is None or task.finished:
            return super().render(task)
        return Text(clock(seconds), style="progress.remaining")


def clock(seconds: float) -> str:
    """`1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def progress_bar(*, extra: str = "") -> Progress:
    """A bar with count, time passed and time left; `extra` is a format of task fields."""
    columns = [
        TextColumn("{task.description:<21}"),
        BarColumn(bar_width=14, complete_style="red", finished_style="red"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        _TimeLeft(),
    ]
    if extra:
        columns.append(TextColumn(extra))
    return _Bar(*columns, console=_err, transient=False, disable=_verbosity == "quiet")


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


def unescaped(text: str | None) -> str | None:
    """A text as typed in a shell: \\n is a line break, \\t a tab."""
    return None if text is None else text.replace("\\n", "\n").replace("\\t", "\t")
