"""Builds the C of this folder for this CPU, once, and keeps it beside the other caches.

No headers but C's own and ours, one call of the machine's C compiler of about a second. Where
that is not to be had (no compiler, another system than Linux, REDPENCIL_COMPILE=off), the reason
is said and torch's operations do the work.
"""

import contextlib
import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from redpencil.places import cache_folder

FOLDER = Path(__file__).parent
SOURCES = ("tree_attention.c", "elementwise.c", "vectors.h")
FLAGS = ("-O3", "-march=native", "-fPIC", "-shared", "-fno-math-errno")
SECONDS = 120
"""After which a compiler is given up."""


class NotBuilt(Exception):
    """There is no library; the message says why, to follow "as"."""


@dataclass(frozen=True, slots=True)
class Library:
    """functions: of the C files. parallel: where GOMP_parallel is, of the OpenMP library that torch
    computes with: both then have one set of threads."""

    functions: ctypes.CDLL
    parallel: int

    def compute(self, name: str, job: ctypes.Structure) -> None:
        """Call a function of the C files on its job, with torch's threads."""
        parallel = ctypes.c_void_p(self.parallel)
        getattr(self.functions, name)(ctypes.byref(job), parallel, torch.get_num_threads())

    def count(self, name: str, *numbers: int) -> int:
        """Ask one how many of something there will be."""
        number: int = getattr(self.functions, name)(*map(ctypes.c_long, numbers))
        return number


@cache
def library() -> Library | str:
    """The library, built if it is not yet; or why there is none."""
    try:
        return _load()
    except NotBuilt as error:
        return str(error)
    except (OSError, RuntimeError, ValueError) as error:  # no home folder, no room, no right to run
        return f"its own kernel could not be built or loaded ({error})"


def built() -> Library:
    """The library, for those who have asked whether there is one (`check.refusal`)."""
    there = library()
    assert not isinstance(there, str), f"called without a library, as {there}"
    return there


def addresses(**arrays: np.ndarray) -> dict[str, int]:
    """Where float32 arrays lie, for a job's fields; they must live until it is done."""
    for name, array in arrays.items():
        assert array.dtype == np.float32 and array.flags.c_contiguous, (name, array.strides)
    return {name: array.ctypes.data for name, array in arrays.items()}


def _load() -> Library:
    if os.environ.get("REDPENCIL_COMPILE", "").lower() in ("off", "0", "no", "false"):
        raise NotBuilt("REDPENCIL_COMPILE is off")
    if sys.platform != "linux":
        raise NotBuilt("its own kernel is for Linux")
    compiler, parallel = _compiler(), _parallel()
    cache = cache_folder()
    kept = cache and cache / "compiled" / f"redpencil-{_key(compiler)}.so"
    functions = _opened_if_ours(kept) if kept else None
    return Library(_built(compiler, kept) if functions is None else functions, parallel)


def _compiler() -> tuple[str, ...]:
    """What to call, with the arguments that a user may put behind it in $CC."""
    asked = shlex.split(os.environ.get("CC", ""))
    choices = [asked] if asked else [["cc"], ["gcc"], ["clang"]]
    for name, *arguments in choices:
        path = shutil.which(name)
        if path is not None:
            return path, *arguments
    raise NotBuilt(f"no C compiler was found ({', '.join(name for name, *_ in choices)})")


def _parallel() -> int:
    """Where a parallel region begins in the OpenMP library that torch computes with: it is looked
    up among those that torch's own library names, as others may have brought theirs."""
    try:
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        raise NotBuilt("torch's threads could not be found") from None
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address, function
    return address


def _key(compiler: Sequence[str]) -> str:
    """What a build depends on: the source, the flags, the compiler and what it knows of the CPU
    (a home folder may be shared by machines of different kinds)."""
    knows = _said(*compiler, *FLAGS, "-dM", "-E", "-x", "c", os.devnull)
    sources = [(FOLDER / name).read_bytes() for name in SOURCES]
    flags = " ".join([*compiler[1:], *FLAGS]).encode()
    facts = [*sources, flags, _said(*compiler, "--version"), knows]
    return hashlib.sha256(b"\0".join(facts)).hexdigest()[:24]


def _built(compiler: Sequence[str], kept: Path | None) -> ctypes.CDLL:
    """Built beside its place and moved there, whole or not at all. Where that folder cannot be
    written to or run from, or is none, in the system's temporary one, and again in the next run."""
    with contextlib.suppress(OSError):
        if kept is None:
            raise FileNotFoundError("there is no cache")
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=kept.parent) as scratch:
            file = _build(compiler, Path(scratch))
            file.chmod(0o700)
            functions = _opened_if_ours(file)
            if functions is not None:
                os.replace(file, kept)
                return functions
    with tempfile.TemporaryDirectory(prefix="redpencil-") as scratch:
        return _opened(_build(compiler, Path(scratch)))


def _build(compiler: Sequence[str], folder: Path) -> Path:
    file = folder / "redpencil.so"
    sources = (str(FOLDER / name) for name in SOURCES if name.endswith(".c"))
    _said(*compiler, *FLAGS, "-o", str(file), *sources, "-lm")
    return file


def _said(*command: str) -> bytes:
    """What a command prints. Raises NotBuilt with its own words where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"{command[0]} could not be run ({error})") from error
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise NotBuilt(f"{command[0]} could not compile it ({words[0]})")
    return done.stdout


def _opened(path: Path) -> ctypes.CDLL:
    """Raises OSError."""
    functions = ctypes.CDLL(str(path))
    try:
        for name in ("tree_attention", "gated", "rms_norm", "rotate"):
            getattr(functions, name).restype = None
        for name in ("scratch_floats", "pieces"):
            getattr(functions, name).restype = ctypes.c_long
    except AttributeError as error:  # hidden by an argument in $CC, say
        raise OSError(str(error)) from None
    return functions


def _opened_if_ours(kept: Path) -> ctypes.CDLL | None:
    """A kept build, if it is there, whole, and only this user can have written it: it will be run.
    What was looked at is what is opened, whatever the path leads to by then."""
    try:
        file = os.open(kept, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    at = os.fstat(file)
    if at.st_uid != os.getuid() or at.st_mode & 0o022:
        os.close(file)
        return None
    try:
        # The number stays taken: under one that is used again the loader would see this file.
        return _opened(Path(f"/proc/self/fd/{file}"))
    except OSError:  # damaged, say
        return None
