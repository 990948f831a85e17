"""Processes that work side by side, one thread each: small matrices use more threads badly.

The parent hands out jobs and never computes. Children live in a session of their own, so that
Ctrl-C reaches the parent alone, which passes it on: a run in training then saves a checkpoint.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Self

from redpencil.console import progress_bar, say, warn
from redpencil.frontier.child import BEGUN, interrupt, serve, start
from redpencil.frontier.folder import FrontierFolder
from redpencil.frontier.plan import Job
from redpencil.world.settings import FrontierSettings

PATIENCE = 30.0
"""Seconds that children have to save their checkpoints before they are ended."""

Told = Callable[[Job, float], str]
"""What to say of a finished job and its seconds."""


@dataclass(slots=True, eq=False)
class _Child:
    process: BaseProcess
    connection: Connection
    job: Job | None = None
    since: float = 0.0
    begun: bool = False

    def take(self, job: Job, threads: int) -> None:
        self.job, self.since, self.begun = job, time.perf_counter(), False
        self.connection.send((job, threads))

    def answer(self) -> str | None:
        """BEGUN; or at the end of its job what went wrong, None where nothing did."""
        try:
            problem: str | None = self.connection.recv()
        except EOFError:
            self.process.join(PATIENCE)
            code = self.process.exitcode
            killed = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            return f"its process ended by itself ({killed}); was memory short?"
        return problem


@dataclass(slots=True)
class Pool:
    """`processes` children that take jobs. Used as a context: leaving it ends them."""

    folder: FrontierFolder
    settings: FrontierSettings
    processes: int
    failures: dict[str, str] = field(default_factory=dict)
    """One sentence for each job that failed or could not begin."""
    _children: list[_Child] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None and self._busy():
                warn("stopping: what is in training saves a checkpoint; once more ends it at once")
                begun = [child.process for child in self._busy() if child.begun]
                for process in begun:
                    interrupt(process)
                for process in begun:
                    process.join(PATIENCE)
        finally:
            for child in self._children:
                child.connection.close()  # an idle child ends when nothing can come any more
                if child.job is None:
                    child.process.join(PATIENCE)
                child.process.kill()
                child.process.join()

    def run(self, jobs: Sequence[Job], told: Told) -> None:
        """Do all jobs that are not finished, each after those it needs. A job that fails is noted
        in `failures`, with those that needed it; the others go on."""
        waiting = [job for job in jobs if not self.folder.finished(job)]
        pending = {job.name for job in waiting}
        with progress_bar(extra="{task.fields[now]}") as bar:
            row = bar.add_task(
                "frontier", total=len(jobs), completed=len(jobs) - len(pending), now=""
            )
            while pending:
                waiting = self._hand_out(self._possible(waiting, pending), pending)
                bar.update(
                    row,
                    completed=len(jobs) - len(pending),
                    now=", ".join(c.job.name for c in self._busy() if c.job),
                )
                for job, problem, seconds in self._answers():
                    pending.discard(job.name)
                    where = f"{len(jobs) - len(pending):>4}/{len(jobs)}  "
                    if problem is None:
                        say(where + told(job, seconds))
                    else:
                        self._fail(job, problem, where)
            bar.update(row, completed=len(jobs), now="")

    def _possible(self, waiting: Sequence[Job], pending: set[str]) -> list[Job]:
        """Those that may still begin: what needs a job that failed has failed with it."""
        possible = []
        for job in waiting:
            lacks = next((name for name in job.needs if name in self.failures), None)
            if lacks is None:
                possible.append(job)
            else:
                pending.discard(job.name)
                self._fail(job, f"it needs {lacks}, which failed", "")
        return possible

    def _fail(self, job: Job, problem: str, where: str) -> None:
        self.failures[job.name] = problem
        log = self.folder.log(job)
        more = f" (its output: {log})" if log.is_file() else ""
        say(f"{where}{job.name} failed: {problem}{more}", style="yellow")

    def _hand_out(self, waiting: Sequence[Job], pending: set[str]) -> list[Job]:
        """Give idle children the first jobs that need nothing pending; return those that wait."""
        left = []
        for job in waiting:
            if len(self._busy()) < self.processes and not pending.intersection(job.needs):
                self._idle().take(job, threads=self.processes if job.alone else 1)
            else:
                left.append(job)
        return left

    def _idle(self) -> _Child:
        for child in self._children:
            if child.job is None and child.process.is_alive():
                return child
        # Not by fork: threads of torch or of the progress bar do not survive one.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, self.folder, self.settings))
        start(process)
        theirs.close()
        self._children.append(_Child(process, ours))
        return self._children[-1]

    def _busy(self) -> list[_Child]:
        return [child for child in self._children if child.job is not None]

    def _answers(self) -> Iterator[tuple[Job, str | None, float]]:
        """Wait for children to answer: (job, what went wrong, seconds)."""
        busy = self._busy()
        ready = wait([child.connection for child in busy], timeout=1.0) if busy else []
        for child in busy:
            if child.connection in ready:
                assert child.job is not None
                problem = child.answer()
                if problem == BEGUN:
                    child.begun = True
                    continue
                yield child.job, problem, time.perf_counter() - child.since
                child.job = None
                if not child.process.is_alive():
                    child.connection.close()
                    self._children.remove(child)
