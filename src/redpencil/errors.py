"""The error tree, and how a message suggests what the user meant.

    RedpencilError                exit code
    ├── UserError                 2    the user's input is wrong: one sentence, no traceback
    │   ├── DataError             2    a data file, row or column
    │   ├── ModelError            2    a model or tokenizer
    │   ├── RecipeError           2    an option, a recipe file, a key
    │   ├── RunFolderError        2    a run folder that cannot be resumed, read or written
    │   ├── FileError             2    a path that the system refuses: no right to it, no room
    │   ├── RewardError           2    a reward that cannot be found, or gives no finite number
    │   ├── EndpointError         2    a judge behind a URL does not answer; what it said is kept
    │   └── MemoryExceeded        2    a step does not fit the memory, cut as small as it can be
    ├── NonFiniteError            3    loss or gradient became NaN or infinite; nothing was updated
    └── Interrupted               130  stopped by a signal, after a checkpoint was saved

Invariants of our own code are asserts, not members of this tree.
"""

import difflib
import re
import traceback
from collections.abc import Iterable
from pathlib import Path


class RedpencilError(Exception):
    """Base of every error that redpencil raises on purpose."""

    exit_code = 1


class UserError(RedpencilError):
    """The user's input is wrong. The message names the thing and the fix."""

    exit_code = 2


class DataError(UserError):
    """A data file is malformed: names file, row and column."""


class ModelError(UserError):
    """A model or tokenizer cannot be loaded or cannot do what was asked."""


class RecipeError(UserError):
    """An option or recipe key is unknown, missing or out of range."""


class RunFolderError(UserError):
    """A run folder cannot be resumed, read or written."""


class FileError(UserError):
    """The system refuses a path: no right to it, no room, a folder where a file should be."""


class RewardError(UserError):
    """A reward cannot be found, or gives no finite number.

    index: which of the responses it was asked about, None where that is not known.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class EndpointError(UserError):
    """A chat model behind a URL does not answer, or refuses to. Its earlier replies are kept."""


class MemoryExceeded(UserError):
    """Memory ran out and nothing can be cut smaller; checkpoints are kept. Names the row."""


class NonFiniteError(RedpencilError):
    """Training became non-finite; the update was not made. Names the rows of the batch."""

    exit_code = 3


class Interrupted(RedpencilError):
    """SIGINT or SIGTERM arrived; a checkpoint was saved first."""

    exit_code = 130


_OF_MODELS = re.compile(r"/transformers(_modules)?/")


def in_words(error: BaseException) -> str:
    """An error inside a reason: our own in its words, another by its kind and where it arose, for
    what Python says of it ("'NoneType' object is not subscriptable") tells a user nothing."""
    if isinstance(error, RedpencilError):
        return str(error)
    kind, trace = type(error).__name__, traceback.extract_tb(error.__traceback__)
    if not trace:
        return kind
    models = [frame for frame in trace if _OF_MODELS.search(Path(frame.filename).as_posix())]
    frame = (models or trace)[-1]  # a model's own code says more than where torch gave up
    return f"{kind} in {Path(frame.filename).name}, line {frame.lineno}"


def not_a(what: str, wanted: str, got: object) -> RecipeError:
    """The error for an argument of another kind than a public function takes:
    `not_a("load", "a folder or a name", None)` is "load takes a folder or a name, got None".
    """
    given = repr(got) if got is None or isinstance(got, bool | int | float) else type(got).__name__
    given = f"{given} {got!r:.60}" if isinstance(got, str) else given
    return RecipeError(f"{what} takes {wanted}, got {given}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`'; did you mean "chosen"?'` when something close is known, else the list of what is.

    Meant to be appended to a message: `f"unknown loss {name!r}{did_you_mean(name, LOSSES)}"`.
    """
    known = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{lowered[close[0]]}"?'
    return f"; known are: {', '.join(known)}" if known else ""
