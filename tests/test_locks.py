"""One command at a time writes into a folder; a killed one leaves no lock behind."""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from redpencil import locks
from redpencil.cli.main import main
from redpencil.errors import RunFolderError
from redpencil.folders.journal import Journal
from redpencil.folders.run import RunFolder
from redpencil.locks import LOCK, alone, lock
from tiny_runs import recipe

HOLDER = """
import sys, time
from pathlib import Path
from redpencil.locks import lock
with lock(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def held_by_another(file: Path):
    """A process of its own that has the lock."""
    command = [sys.executable, "-c", HOLDER, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.0)


@pytest.fixture(scope="module")
def taken(tmp_path_factory, base, pairs):
    """A folder that looks like a run of DPO that was begun, and the process that is at it."""
    out = tmp_path_factory.mktemp("taken") / "run"
    RunFolder(out).write_recipe(recipe(base, pairs, out).resolve(total_steps=8, max_length=64))
    with held_by_another(out / LOCK) as process:
        yield out, process


WRITERS = {
    "dpo": "dpo --model BASE --data PAIRS --out RUN --batch-size 8 --epochs 2 --learning-rate 1e-3"
    " --eval-fraction 0.2 --sample-prompts 2 --sample-tokens 8 --no-cache",
    "export into it": "export RUN RUN/exported --step 1",
    "suspects": "note RUN --suspects",
    "another sft": "sft --model BASE --data PAIRS --out NEW",
    "another reward": "reward --model BASE --data PAIRS --out NEW",
    "rl": "rl --model BASE --data PAIRS --reward answer --out NEW",
    "judge": "judge data:a data:b --data PAIRS --by answer --out NEW",
    "frontier": "frontier --out NEW",
    "demo": "demo --out NEW",
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_second_command_says_who_holds_it(kind, taken, base, pairs, tmp_path, capsys):
    out, process = taken
    new = tmp_path / "new"
    new.mkdir()
    command = WRITERS[kind]
    names = {"BASE": base, "PAIRS": pairs, "RUN": out, "NEW": new}
    words = [_placed(word, names) for word in command.split()]
    before = {p.name for p in out.iterdir()}
    with held_by_another(new / LOCK) if "NEW" in command else contextlib.nullcontext() as other:
        code = main(words)
        holder = other or process
    said = capsys.readouterr().err
    assert code == 2, said
    assert "Traceback" not in said
    assert f"process {holder.pid} on {socket.gethostname()}" in said
    assert " since 2" in said
    assert "-c " in said, "it names the command"
    assert {p.name for p in out.iterdir()} == before
    assert {p.name for p in new.iterdir()} <= {LOCK}


def _placed(word: str, names: dict) -> str:
    for name, place in names.items():
        word = word.replace(name, str(place))
    return word


def test_the_label_journal_of_two_commands(tmp_path):
    with Journal(tmp_path / "pairs.partial") as journal:
        journal.add({"a": 1})
        with pytest.raises(RunFolderError, match="is in use"):
            Journal(tmp_path / "pairs.partial")
    with Journal(tmp_path / "pairs.partial") as journal:
        assert journal.rows == [{"a": 1}]
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.partial"]


def test_a_killed_process_leaves_no_lock_behind(tmp_path):
    with held_by_another(tmp_path / LOCK) as process:
        with pytest.raises(RunFolderError), alone(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()  # the file is, the lock on it is not
    with alone(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_made_for_nothing_is_gone(tmp_path):
    with alone(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    with alone(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").write_text("kept")
    assert (tmp_path / "a" / "b" / "file").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_named(code, tmp_path, monkeypatch, capsys):
    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", refused)
    with alone(tmp_path):
        assert list(tmp_path.iterdir()) == []
    assert f"the file system of {tmp_path} has no locks" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_system_without_locks_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "fcntl", None)
    with alone(tmp_path):
        pass
    assert "no file locks" in capsys.readouterr().err


def test_at_most_one_holds_it_however_many_try(tmp_path):
    """The file goes when its lock is released: whoever opened it before must not hold a ghost."""
    inside, seen = [], []

    def work(number):
        for _ in range(25):
            with lock(tmp_path / LOCK, "it", patience=120):
                inside.append(number)
                seen.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 150
