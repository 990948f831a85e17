"""Paths: as a user names them, as the system refuses them, and the cache.

A path that cannot be read or written is no fault of ours, and its OSError is caught in one place,
the door of the command line (`refusals_told`). Nobody below catches one only to put it in words.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from redpencil.console import warn_once
from redpencil.errors import FileError, UserError

PARTIAL = ".partial"
"""How the name of a file or folder ends that is not whole yet; it begins with a dot."""


def path_of(name: str | Path) -> Path:
    """The path that a user named; `~` and `~somebody` lead home. Raises UserError where nobody is
    called so, or where this user has no home folder."""
    path = Path(name)
    try:
        return path.expanduser()
    except RuntimeError:
        who = path.parts[0]
        raise UserError(
            f"{path}: {who} names no home folder here; write the path out, or ./{who} for a folder "
            "of that name"
        ) from None


LONGEST = 200
"""Bytes of a name in that of its scratch file; most file systems take 255."""


_HINTS = {
    errno.EACCES: "permission denied; ask for the right to it, or name another path",
    errno.EPERM: "not permitted; ask for the right to it, or name another path",
    errno.EROFS: "the file system there is read-only; name a path that can be written",
    errno.ENOSPC: "no space is left there; what was whole is kept: make room and repeat the "
    "command, or name another path",
    errno.EDQUOT: "your quota there is used up; what was whole is kept: make room and repeat the "
    "command, or name another path",
    errno.EFBIG: "the file would become larger than is allowed there (ulimit -f, or the file "
    "system); what was whole is kept",
    errno.ENOENT: "there is no such file or folder",
    errno.EEXIST: "it exists already; nothing was written over",
    errno.ENOTEMPTY: "it is a folder that is not empty; nothing was written over",
    errno.EISDIR: "it is a folder, where a file should be",
    errno.ENOTDIR: "a part of this path is a file, where a folder should be",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.ENAMETOOLONG: "the name is too long for the file system",
    errno.EIO: "the disk reports an error; what lies there may be damaged",
    errno.ESTALE: "the network drive lost it (stale file handle); repeat the command",
    errno.EMFILE: "this process has too many files open (ulimit -n)",
    errno.ENFILE: "the system has too many files open",
    errno.EBUSY: "the system says that it is busy; repeat the command",
    errno.ETXTBSY: "it is a program that is running",
    errno.EINVAL: "the file system does not take this name, or cannot do what is asked of it",
    errno.EILSEQ: "the file system does not take this name",
    errno.ENOTSUP: "the file system there cannot do what is asked of it",
}
"""What the system says of a path, and the way out."""

_NO_MATTER_WHERE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EMFILE)
"""Refusals that are the user's to mend even where nobody says which path it was."""

_INNER_CODE = re.compile(r"\bcode: (\d+)\b|\(os error (\d+)\)")
"""How libraries in Rust (safetensors, tokenizers) spell errno."""


def refusal(error: OSError) -> str | None:
    """One sentence on what the system refused, which names the path; None where it is no path."""
    if error.errno is None or isinstance(error, BrokenPipeError | ConnectionError):
        return None
    named = error.filename2 or error.filename
    if named is None and error.errno not in _NO_MATTER_WHERE:
        return None
    reason = _HINTS.get(error.errno) or (error.strerror or os.strerror(error.errno)).lower()
    where = "a file" if named is None or isinstance(named, int) else os.fsdecode(named)
    return f"{where}: {reason}"


@contextlib.contextmanager
def refusals_told() -> Iterator[None]:
    """Inside, what the system refuses of a path becomes a FileError, the sentence on it."""
    try:
        yield
    except OSError as error:
        told = refusal(error)
        if told is None:
            raise
        raise FileError(told) from error


def text_of(path: Path) -> str:
    """A text file that a user named. Raises FileError where it is none, OSError."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not text in UTF-8 (at byte {error.start}); save it so") from None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an OSError names this path where it named none (as writes into an open file do), or
    one that stands for it until it is whole. Errors of Rust's libraries become such OSErrors."""
    try:
        yield
    except OSError as error:
        named = error.filename2 or error.filename
        if error.errno is not None and (named is None or _stands_for(path, os.fsdecode(named))):
            error.filename, error.filename2 = str(path), None
        raise
    except Exception as error:
        found = _INNER_CODE.search(str(error))
        if found is None:
            raise
        code = int(found[1] or found[2])
        raise OSError(code, os.strerror(code), str(path)) from error


def _stands_for(path: Path, named: str) -> bool:
    """Whether what is named lies beside a path, in a file or folder called after it as what is not
    whole yet is."""
    try:
        beside = Path(named).relative_to(path.parent).parts
    except ValueError:
        return False
    return bool(beside) and beside[0].startswith(f".{path.name[:LONGEST]}.")


@contextlib.contextmanager
def whole_file(path: Path, mode: str = "w", *, durable: bool = False) -> Iterator[IO[Any]]:
    """A file that takes its name once all is written, in UTF-8, or leaves nothing behind.

    durable: on the disk before it takes the name, so that a power cut leaves it whole, too.
    Two processes that write the same one do not disturb each other: the last one counts.
    """
    text: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with naming(path):
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name[:LONGEST]}.", suffix=PARTIAL, dir=path.parent
        )
        scratch = Path(name)
        try:
            with open(descriptor, mode, **({} if "b" in mode else text)) as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            scratch.chmod(0o666 & ~umask())
            os.replace(scratch, path)
        except BaseException:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of files of a folder, as `sha256sum` prints it, by name. Raises OSError."""

    def of(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    names = list(names)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets other threads run
        return dict(zip(names, pool.map(of, names), strict=True))


def umask() -> int:
    """What new files here are not allowed."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_disk(path: Path) -> None:
    """A rename may reach the disk before the bytes do; after a power cut a file or folder would be
    whole by name only."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """At once as far as its name goes: what a kill leaves of it carries another one."""
    gone = folder.with_name(f".{folder.name.removeprefix('.')}.gone{PARTIAL}")
    if gone.exists():
        shutil.rmtree(gone)
    os.replace(folder, gone)
    shutil.rmtree(gone)


def cache_folder() -> Path | None:
    """$REDPENCIL_CACHE, or ~/.cache/redpencil: reference log-probabilities, what was found out
    about this machine, what was compiled for it. None where there is no place for it."""
    named = os.environ.get("REDPENCIL_CACHE")
    try:
        return Path(named).expanduser() if named else Path.home() / ".cache" / "redpencil"
    except RuntimeError:
        without_cache("this user has no home folder")
        return None


def without_cache(why: str) -> None:
    """Say, once for each reason, that nothing is kept for later runs."""
    warn_once(f"no cache: {why}; nothing is kept for later runs (REDPENCIL_CACHE names a folder)")
