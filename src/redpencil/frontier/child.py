"""A child process of the frontier: takes jobs from its parent until nothing can come any more."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from redpencil.errors import Interrupted, RedpencilError
from redpencil.frontier.folder import FrontierFolder
from redpencil.frontier.plan import Job
from redpencil.world.settings import FrontierSettings

BEGUN = "begun"
"""A child's first answer to a job: from here on it can be interrupted."""


def serve(connection: Connection, folder: FrontierFolder, settings: FrontierSettings) -> None:
    """Do jobs as they come; answer each with BEGUN, and at its end with None or what went wrong."""
    os.setsid()  # Ctrl-C at the terminal reaches the parent alone
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job, threads = connection.recv()
            connection.send(BEGUN)
            connection.send(_done(job, threads, folder, settings))
        except (EOFError, BrokenPipeError, KeyboardInterrupt, Interrupted):
            return


def start(process: BaseProcess) -> None:
    """Start a child that is deaf to Ctrl-C until it serves: no tracebacks of half-made imports."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt(process: BaseProcess) -> None:
    """Ask a child to stop: what is in training saves a checkpoint first."""
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGINT)


def _end_with_parent() -> None:
    """A parent that was killed must not leave children that write into its folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _done(job: Job, threads: int, folder: FrontierFolder, settings: FrontierSettings) -> str | None:
    import torch  # here, for the parent imports this file and needs no torch

    from redpencil.frontier.work import forget_checkpoints, work

    torch.set_num_threads(threads)
    with _output_to(folder.log(job)):
        try:
            folder.keep(job, work(job, folder, settings))
            forget_checkpoints(job, folder)
        except Interrupted:
            raise
        except RedpencilError as error:
            return str(error)
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Everything that is printed goes to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
