"""What libraries say while they work: their noise stays off the screen, and what they raise over a
folder that the user named becomes one sentence."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType

from transformers.utils import logging

from redpencil.errors import ModelError, RedpencilError
from redpencil.models.memory import is_out_of_memory


@contextmanager
def quiet() -> Iterator[None]:
    """Errors still raise; what is worth saying is said by redpencil itself."""
    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def in_one_sentence(what: str) -> Iterator[None]:
    """Inside, a library works on what the user named, quietly; whatever it raises becomes
    `ModelError(f"{what}: ...")` with its first line, for no list of its errors would be whole.

    Wrap calls of libraries and nothing else. What is no fault of the folder passes through: memory
    that ran out, and errors from within redpencil, which libraries call back (attention).
    """
    block = sys._getframe(2)  # above this generator and contextlib's __enter__
    try:
        with quiet():
            yield
    except RedpencilError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or _is_ours(error.__traceback__, below=block):
            raise
        raise ModelError(f"{what}: {said(error)}") from error


_OF_A_BUG = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)
"""Errors whose message says little without their name."""


def said(error: Exception) -> str:
    """The first line of an error's message, in a sentence."""
    if "ignore_mismatched_sizes" in str(error):
        return "tensor shapes in the file are not those of config.json"
    name = type(error).__name__
    package = absent_package(error)
    if package is not None:
        return f"it needs the Python package {package!r}, which is not installed"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [name]
    # A dataclass that was shown a wrong value says where first, and what on its next line.
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{name}: {first}" if isinstance(error, _OF_A_BUG) and first != name else first


def absent_package(error: BaseException) -> str | None:
    """The package that an import asked for and this environment lacks; None for other errors."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    package = error.name.partition(".")[0]
    return package if find_spec(package) is None else None


_HOME = str(Path(__file__).resolve().parent.parent)


def _is_ours(traceback: TracebackType | None, *, below: FrameType) -> bool:
    """Whether an error was raised in redpencil, further down than the block that called."""
    files: list[str] = []
    while traceback is not None:
        is_block = traceback.tb_frame is below
        files = [] if is_block else [*files, traceback.tb_frame.f_code.co_filename]
        traceback = traceback.tb_next
    return bool(files) and files[-1].startswith(_HOME)
