"""Builds the C of this folder for this CPU, once, and keeps it beside the other caches.

No headers but C's own and ours, one call of the machine's C compiler of about a second. Where
that is not to be had (no compiler, another system than Linux, REDPENCIL_COMPILE=off), the reason
is said and torch's operations do the work.
"""

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
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
    compiler = _compiler()
    parallel = _parallel()
    kept = cache_folder() / "compiled" / f"redpencil-{_key(compiler)}.so"
    if _is_ours(kept):
        with contextlib.suppress(NotBuilt):  # damaged, say
            return Library(_opened(kept), parallel)
    with tempfile.TemporaryDirectory(prefix="redpencil-") as scratch:
        built = _build(compiler, Path(scratch))
        functions = _opened(built)
        _keep(built, kept)
    return Library(functions, parallel)


def _compiler() -> str:
    asked = os.environ.get("CC")
    names = (asked,) if asked else ("cc", "gcc", "clang")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise NotBuilt(f"no C compiler was found ({', '.join(names)})")
    return found


def _parallel() -> int:
    """torch has loaded its OpenMP library privately: where it lies stands in the process's map.
    Others may have brought one of their own, so one in torch's folder goes first."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in lines if "omp" in line.rpartition("/")[2]}
    home = str(Path(torch.__file__).parent)
    for path in sorted(paths, key=lambda path: (not path.startswith(home), path)):
        try:
            function = ctypes.CDLL(path).GOMP_parallel
        except (OSError, AttributeError):
            continue
        address = ctypes.cast(function, ctypes.c_void_p).value
        if address:
            return address
    raise NotBuilt("torch's threads could not be found")


def _key(compiler: str) -> str:
    """What a build depends on: the source, the flags, the compiler and what it knows of the CPU
    (a home folder may be shared by machines of different kinds)."""
    knows = _said(compiler, *FLAGS, "-dM", "-E", "-x", "c", os.devnull)
    sources = [(FOLDER / name).read_bytes() for name in SOURCES]
    facts = [*sources, " ".join(FLAGS).encode(), _said(compiler, "--version"), knows]
    return hashlib.sha256(b"\0".join(facts)).hexdigest()[:24]


def _build(compiler: str, folder: Path) -> Path:
    built = folder / "redpencil.so"
    sources = (str(FOLDER / name) for name in SOURCES if name.endswith(".c"))
    _said(compiler, *FLAGS, "-o", str(built), *sources, "-lm")
    return built


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
    try:
        functions = ctypes.CDLL(str(path))
        for name in ("scratch_floats", "norm_pieces"):
            getattr(functions, name).restype = ctypes.c_long
        return functions
    except OSError as error:
        raise NotBuilt(f"what was compiled could not be loaded ({error})") from error


def _is_ours(kept: Path) -> bool:
    """Whether a kept build is there and only this user can have written it: it will be run."""
    try:
        at = kept.stat()
    except OSError:
        return False
    return at.st_uid == os.getuid() and not at.st_mode & 0o022


def _keep(built: Path, kept: Path) -> None:
    """Whole or not at all. A cache that cannot be written to costs a second in the next run."""
    scratch = kept.with_suffix(f".{os.getpid()}.partial")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built, scratch)
        scratch.chmod(0o755)
        os.replace(scratch, kept)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink()
