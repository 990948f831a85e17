"""One command at a time writes into a folder.

The lock is the system's own on an open file (flock), which goes with the process however that
ends: a killed command leaves none behind. The file, `.lock`, says who holds it.
"""

import contextlib
import errno
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redpencil.console import warn_once
from redpencil.errors import RunFolderError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"

PATIENCE = 1.0
"""Seconds that a lock is asked for: a killed process keeps its files until its memory is freed."""

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system says that has no locks."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other command writes into a folder. It is made where it is not there, and gone
    again where nothing was put into it.

    Raises RunFolderError where another command has it. Where the system or the file system has no
    locks, that is said, and nobody is kept out.
    """
    made = _made(folder)
    try:
        with lock(folder / LOCK, str(folder)):
            yield
    finally:
        for each in reversed(made):
            with contextlib.suppress(OSError):  # not empty
                each.rmdir()


def _made(folder: Path) -> list[Path]:
    """Make a folder with those above it. Returns those that were not there."""
    missing = []
    for each in (folder, *folder.parents):
        if each.exists():
            break
        missing.append(each)
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


@contextlib.contextmanager
def alone_if_free(folder: Path) -> Iterator[None]:
    """Inside, no command *begins* to write into a folder, and so none tidies it. One that has it
    already goes on: for what is written whole, whoever else writes there."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(RunFolderError):
            stack.enter_context(lock(folder / LOCK, str(folder), patience=0))
        yield


@contextlib.contextmanager
def lock(file: Path, thing: str, *, patience: float | None = None) -> Iterator[None]:
    """Inside, this process alone holds the lock of a file, which is there as long as it is held.

    thing: what it stands for, in an error. Raises RunFolderError where another holds it.
    """
    descriptor = _held(file, thing, PATIENCE if patience is None else patience)
    if descriptor is None:
        yield
        return
    try:
        _sign(descriptor)
        yield
    finally:
        with contextlib.suppress(OSError):  # removed with its folder, say
            file.unlink()
        os.close(descriptor)


def _held(file: Path, thing: str, patience: float) -> int | None:
    """A descriptor that holds the lock; None where there are no locks."""
    if fcntl is None:
        warn_once(f"this system has no file locks: let no other command write into {thing}")
        return None
    until = time.monotonic() + patience
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, descriptor):
                return descriptor
            os.close(descriptor)  # whoever had it removed it just now
        except OSError as error:
            owner = os.pread(descriptor, 10_000, 0)
            os.close(descriptor)
            if error.errno in _UNSUPPORTED:
                file.unlink(missing_ok=True)
                warn_once(
                    f"the file system of {thing} has no locks ({error.strerror}): let no other "
                    "command write into it"
                )
                return None
            if not isinstance(error, BlockingIOError):
                error.filename = str(file)
                raise
            if time.monotonic() > until:
                raise RunFolderError(_taken(thing, owner)) from None
            time.sleep(0.05)


def _is(file: Path, descriptor: int) -> bool:
    """Whether a file is still the one that was opened."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write down who holds the lock. On a full disk nobody learns it, and the lock holds."""
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:1000],
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _taken(thing: str, signed: bytes) -> str:
    try:
        owner: Any = json.loads(signed)
        who = f"process {owner['pid']} on {owner['host']} (`{owner['command']}`)"
        since = f" since {owner['since']}"
    except (ValueError, KeyError, TypeError):  # it is just being signed
        who, since = "another process", ""
    return (
        f"{thing} is in use: {who} writes into it{since}; wait until it has ended, or name another "
        "folder"
    )
