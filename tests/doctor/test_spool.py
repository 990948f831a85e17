"""Rows on disk: what went in comes out, and a full disk is one sentence."""

import errno
import os

import numpy as np
import pytest

from redpencil.doctor.spool import Spool
from redpencil.errors import DataError
from redpencil.types import Origin


def test_texts_and_columns_come_back():
    with Spool(2) as spool:
        spool.add(Origin("a", 1), ("one\ntwo", "\ud800 half", ""))
        spool.add(Origin("b", 7), ("three",))
        spool.add_columns(np.array([[1, 2], [3, 2**64 - 1]], dtype=np.uint64))
        assert spool.read(1) == (Origin("b", 7), ("three",))
        assert spool.read(0) == (Origin("a", 1), ("one\ntwo", "\ud800 half", ""))
        assert spool.column(0).tolist() == [1, 3]
        assert spool.column(1).tolist() == [2, 2**64 - 1]
        assert len(spool) == 2
        folder = spool._folder.name
        assert os.path.isdir(folder)
    assert not os.path.exists(folder)


def test_a_full_disk_is_one_sentence(monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    with Spool(0) as spool:
        monkeypatch.setattr(spool, "_texts", Full())
        with pytest.raises(DataError, match=r"No space left on device.*TMPDIR"):
            spool.add(Origin("a", 1), ("one",))
