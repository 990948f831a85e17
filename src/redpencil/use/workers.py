"""Work that waits for a network, in a few threads."""

import threading
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    done: Callable[[Item, Result], object],
    *,
    threads: int,
    stop: Callable[[], object],
) -> None:
    """Call `work` on every item in threads, and `done` in this one, in the order of completion.

    Where `work` raises, no further item is begun, those under way are finished and handed to
    `done`, and the first error is raised. Where this thread is interrupted, `stop` is called and
    nobody is waited for.
    """
    waiting: SimpleQueue[Item] = SimpleQueue()
    for item in items:
        waiting.put(item)
    finished: SimpleQueue[tuple[Item, Result] | BaseException | None] = SimpleQueue()
    halted = threading.Event()

    def run() -> None:
        while not halted.is_set():
            try:
                item = waiting.get_nowait()
            except Empty:
                break
            try:
                finished.put((item, work(item)))
            except BaseException as error:  # whatever it is, it is raised in the other thread
                halted.set()
                finished.put(error)
        finished.put(None)

    count = min(threads, waiting.qsize())
    for _ in range(count):
        # Daemons: a thread that hangs in a request must not keep the program from ending.
        threading.Thread(target=run, daemon=True).start()
    failure: BaseException | None = None
    try:
        while count:
            outcome = finished.get()
            if outcome is None:
                count -= 1
            elif isinstance(outcome, BaseException):
                failure = failure or outcome
            else:
                done(*outcome)
    finally:
        halted.set()
        if count:
            stop()
    if failure:
        raise failure
