"""Threads that wait for a network: everything is done once, an error ends it, nothing is lost."""

import threading

import pytest

from redpencil.use.workers import in_parallel


def test_every_item_is_done_once():
    done = {}
    in_parallel(range(20), lambda i: i * i, done.__setitem__, threads=3, stop=lambda: None)
    assert done == {i: i * i for i in range(20)}
    in_parallel([], lambda i: i, done.__setitem__, threads=3, stop=lambda: None)


def test_they_run_at_once():
    """Two items that each wait for the other would block one thread for ever."""
    meeting = threading.Barrier(2, timeout=600)
    in_parallel([0, 1], lambda i: meeting.wait(), lambda *_: None, threads=2, stop=lambda: None)


def test_an_error_lets_what_is_under_way_finish_and_begins_nothing_more():
    failing = threading.Event()
    done, begun = {}, []

    def work(i):
        begun.append(i)
        if i == 0:
            failing.set()
            raise ValueError("no network")
        assert failing.wait(30)
        return i

    with pytest.raises(ValueError, match="no network"):
        in_parallel(range(50), work, done.__setitem__, threads=2, stop=lambda: None)
    assert set(done) == set(begun) - {0}
    assert len(begun) <= 3


def test_an_interruption_waits_for_nobody():
    release = threading.Event()
    stopped = []

    def done(item, result):
        raise KeyboardInterrupt

    def work(i):
        if i:
            release.wait(30)

    with pytest.raises(KeyboardInterrupt):
        in_parallel([0, 1], work, done, threads=2, stop=lambda: stopped.append(True))
    assert stopped == [True]
    release.set()
