"""Paths that the system refuses: one sentence that names the path, exit code 2, no traceback.

Permissions do not bind the superuser, so they are tried in a child process that is somebody else,
and what they lead to is injected, too: each errno, at the functions that open and look.
"""

import errno
import io
import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import pytest
import torch

from redpencil import console, places
from redpencil.cli.main import main
from redpencil.errors import FileError, UserError
from redpencil.places import naming, path_of, refusal, refusals_told, whole_file

NOBODY = 65534

CODES = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EIO, errno.ENOSPC, errno.EMFILE),
)


@pytest.fixture
def refuse(monkeypatch):
    """From here on, what opens, makes or looks into a path, or one below it, is refused."""

    def begin(path: Path, code: int) -> None:
        def refusing(function):
            def tried(name, *args, **options):
                if isinstance(name, str | os.PathLike):
                    at = Path(name)
                    if at == path or path in at.parents:
                        raise OSError(code, os.strerror(code), str(name))
                return function(name, *args, **options)

            return tried

        for module, name in OPENERS:
            monkeypatch.setattr(module, name, refusing(getattr(module, name)))

    return begin


OPENERS = ((io, "open"), (os, "open"), (os, "mkdir"), (os, "scandir"), (os, "listdir"))


COMMANDS = {
    "check": ("check DATA", "DATA"),
    "check of a folder": ("check FOLDER", "FOLDER"),
    "check --fix": ("check DATA --fix NEW/fixed.jsonl", "NEW"),
    "dpo, data": ("dpo --model BASE --data DATA --out NEW/run", "DATA"),
    "dpo, model": ("dpo --model BASE --data DATA --out NEW/run", "BASE"),
    "dpo, out": ("dpo --model BASE --data DATA --out NEW/run", "NEW"),
    "dpo, template": (
        "dpo --model BASE --data DATA --out NEW/run --chat-template TEMPLATE",
        "TEMPLATE",
    ),
    "judge, template": (
        "judge data:chosen data:rejected --data DATA --judge-url http://localhost:9 --judge-model m"
        " --judge-template TEMPLATE --out NEW/judged",
        "TEMPLATE",
    ),
    "recipe": ("run RECIPE", "RECIPE"),
    "note": ("note RUN", "RUN"),
    "report": ("report RUN", "RUN"),
    "eval": ("eval RUN --data DATA", "RUN"),
    "export": ("export RUN NEW/model", "RUN"),
    "generate": ("generate RUN --prompt x", "RUN"),
}


@pytest.fixture(scope="module")
def there(tmp_path_factory, base, pairs):
    place = tmp_path_factory.mktemp("there")
    return _filled(place, base, pairs)


def _filled(place: Path, base: Path, pairs: Path) -> dict[str, Path]:
    """Everything that commands are given, below one folder."""
    names = {
        "DATA": place / "pairs.jsonl",
        "FOLDER": place / "folder",
        "BASE": place / "base",
        "RUN": place / "run",
        "NEW": place / "new",
        "TEMPLATE": place / "template.jinja",
        "RECIPE": place / "recipe.yaml",
    }
    shutil.copy(pairs, names["DATA"])
    shutil.copytree(base, names["BASE"])
    for name in ("FOLDER", "NEW", "RUN"):
        names[name].mkdir()
    shutil.copy(pairs, names["FOLDER"] / "part.jsonl")
    (names["RUN"] / "recipe.yaml").write_text(
        f"stage: dpo\nmodel: {names['BASE']}\ndata: {names['DATA']}\nout: {names['RUN']}\n"
    )
    names["TEMPLATE"].write_text("{{ messages }}")
    names["RECIPE"].write_text("stages: []\n")
    return names


def command_of(text: str, names: dict[str, Path]) -> list[str]:
    words = []
    for word in text.split():
        first, slash, rest = word.partition("/")
        words.append(f"{names[first]}{slash}{rest}" if first in names else word)
    return words


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("kind", COMMANDS)
def test_what_the_system_refuses_is_a_sentence(kind, code, there, refuse, capsys):
    text, refused = COMMANDS[kind]
    refuse(there[refused], code)
    exit_code = main(command_of(text, there))
    said = capsys.readouterr().err
    assert exit_code == 2, said
    assert said.count("error: ") == 1, said
    assert str(there[refused]) in said, said
    assert "Traceback" not in said


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_every_errno_has_its_sentence(code):
    with pytest.raises(FileError) as raised, refusals_told():
        raise OSError(code, os.strerror(code), "a/b")
    assert str(raised.value).startswith("a/b: ")
    assert len(str(raised.value)) > len("a/b: ") + 10


def test_what_is_no_refusal_of_a_path_stays_a_bug():
    for error in (
        OSError("words of a library"),
        OSError(errno.ENOENT, "no name"),
        BrokenPipeError(),
    ):
        assert refusal(error) is None
    with pytest.raises(ZeroDivisionError), refusals_told():
        raise ZeroDivisionError
    with pytest.raises(ConnectionRefusedError), refusals_told():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused", "a/b")


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path):
    (tmp_path / "kept.json").write_text("old")
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="kept") as raised, whole_file(tmp_path / "kept.json") as file:
        raise (file.write("new") and full) or full
    assert "kept.json: no space is left there" in str(refusal(raised.value))
    assert (tmp_path / "kept.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.json"]


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(OSError, match="other") as raised, whole_file(tmp_path / "out.json"):
        (tmp_path / "other.json").read_text()
    assert "other.json: there is no such file" in str(refusal(raised.value))


def test_libraries_in_rust_spell_errno_in_words(tmp_path):
    words = 'Error: IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'
    with pytest.raises(OSError, match="safetensors") as raised, naming(tmp_path / "w.safetensors"):
        raise RuntimeError(words)
    assert "w.safetensors: no space is left" in str(refusal(raised.value))
    with pytest.raises(RuntimeError), naming(tmp_path):
        raise RuntimeError("another one")


def test_files_get_the_permissions_that_any_new_file_gets(tmp_path):
    (tmp_path / "plain").write_text("")
    with whole_file(tmp_path / "whole") as file:
        file.write("")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    "command",
    [
        "check ~nobody-of-this-name/pairs.jsonl",
        "check DATA --fix ~nobody-of-this-name/pairs.jsonl",
        "dpo --model ~nobody-of-this-name/model --data DATA --out NEW/run",
        "dpo --model BASE --data ~nobody-of-this-name/pairs.jsonl --out NEW/run",
        "dpo --model BASE --data DATA --out ~nobody-of-this-name/run",
        "export ~nobody-of-this-name/run NEW/model",
        "note ~nobody-of-this-name/run",
        "note ~nobody-of-this-name/run --again NEW/again.jsonl",
        "report ~nobody-of-this-name/run",
        "eval ~nobody-of-this-name/run",
        "generate ~nobody-of-this-name/run --prompt x",
        "chat ~nobody-of-this-name/run",
        "run ~nobody-of-this-name/recipe.yaml",
    ],
)
def test_a_home_of_nobody(command, there, capsys):
    assert main(command_of(command, there)) == 2
    said = capsys.readouterr().err
    assert "~nobody-of-this-name" in said
    assert "names no home folder" in said


def test_home_means_the_same_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert path_of("~/run") == tmp_path / "run"
    assert path_of("a/~b") == Path("a/~b")


def test_a_user_without_a_home(tmp_path, monkeypatch, capsys):
    def unknown(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.delenv("REDPENCIL_CACHE", raising=False)
    assert places.cache_folder() is None
    assert places.cache_folder() is None
    assert capsys.readouterr().err.count("no cache: this user has no home folder") <= 1
    with pytest.raises(UserError, match="names no home folder"):
        path_of("~/run")


def as_somebody_else(
    argv: list[str], place: Path, user: int = NOBODY, **environment: str
) -> tuple[int, str]:
    """Exit code and stderr of a command in a child of this process that is no superuser."""
    said = place / "said.txt"
    said.touch()
    said.chmod(0o666)
    child = os.fork()
    if not child:
        code = 99
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(user)
            os.environ |= environment
            torch.set_num_threads(1)  # OpenMP's threads did not come along
            console._warned.clear()  # what this process said before is not said by that one
            with said.open("w") as stream:
                sys.stdout = sys.stderr = stream
                try:
                    code = main(argv)
                except BaseException:
                    traceback.print_exc(file=stream)
                    stream.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.read_text()


@pytest.fixture
def open_place(base, pairs):
    """Names of what commands are given, where everybody may go."""
    place = Path(tempfile.mkdtemp(prefix="redpencil-test-"))
    place.chmod(0o755)
    names = _filled(place, base, pairs)
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
    yield names
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(place)


CLOSED = {
    "a model folder": ("dpo --model BASE --data DATA --out NEW/run", "BASE", 0o000),
    "a model's weights": (
        "dpo --model BASE --data DATA --out NEW/run",
        "BASE/model.safetensors",
        0o000,
    ),
    "a config": ("dpo --model BASE --data DATA --out NEW/run", "BASE/config.json", 0o000),
    "a data file": ("dpo --model BASE --data DATA --out NEW/run", "DATA", 0o000),
    "a data folder": ("check FOLDER", "FOLDER", 0o000),
    "a data folder without its list": ("check FOLDER", "FOLDER", 0o300),
    "a data file in a folder": ("check FOLDER", "FOLDER/part.jsonl", 0o000),
    "where the run should go": ("dpo --model BASE --data DATA --out NEW/run", "NEW", 0o555),
    "an unfinished run that is only read": (
        "dpo --model BASE --data DATA --out RUN",
        "RUN",
        0o555,
    ),
    "a run": ("eval RUN --data DATA", "RUN", 0o000),
    "a run's recipe": ("eval RUN --data DATA", "RUN/recipe.yaml", 0o000),
    "a run, shown": ("note RUN", "RUN", 0o000),
    "a run, reported": ("report RUN", "RUN", 0o000),
    "a run whose page cannot be written": ("report RUN", "RUN", 0o555),
    "a run, exported": ("export RUN NEW/model", "RUN", 0o000),
    "a template": (
        "dpo --model BASE --data DATA --out NEW/run --chat-template TEMPLATE",
        "TEMPLATE",
        0o000,
    ),
    "a recipe": ("run RECIPE", "RECIPE", 0o000),
}


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
@pytest.mark.parametrize("kind", CLOSED)
def test_permissions(kind, open_place):
    text, closed, mode = CLOSED[kind]
    path = Path(command_of(closed, open_place)[0])
    path.chmod(mode)
    code, said = as_somebody_else(command_of(text, open_place), open_place["NEW"].parent)
    assert code == 2, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert "Traceback" not in said, said
    assert str(path) in errors[0], said


SHORT = (
    "dpo --model BASE --data DATA --out NEW/run --max-steps 1 --batch-size 4 --sample-prompts 0"
    " --max-tokens 512 --matrix-kernels default --eval-fraction 0.2"
)


def train_as_ourselves(names: dict[str, Path]) -> str:
    """A short training, done once: a child may not be allowed to read what Python imports."""
    assert main(command_of(SHORT.replace("NEW/run", "NEW/before"), names)) == 0
    return SHORT


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_cache_that_is_closed_is_done_without(mode, open_place):
    place = open_place["NEW"].parent
    cache = place / "cache"
    (cache / "reference").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(cache, NOBODY, NOBODY)
    cache.chmod(mode)
    (cache / "reference").chmod(mode) if mode else None
    text = train_as_ourselves(open_place)
    code, said = as_somebody_else(command_of(text, open_place), place, REDPENCIL_CACHE=str(cache))
    assert code == 0, said
    assert said.count("no cache: ") == 1, said
    assert "Traceback" not in said, said
    summary = json.loads((open_place["NEW"] / "run" / "summary.json").read_text())
    assert summary["steps"] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no such users")
def test_a_user_whom_the_system_does_not_know(open_place, monkeypatch):
    """As containers are started with: no name, no HOME."""
    place = open_place["NEW"].parent
    text = train_as_ourselves(open_place)
    open_place["NEW"].chmod(0o777)
    for name in ("HOME", "USERPROFILE", "REDPENCIL_CACHE", "USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    code, said = as_somebody_else(command_of(text, open_place), place, user=54321)
    assert code == 0, said
    assert "Traceback" not in said, said
    if os.geteuid() == 0:
        assert said.count("no cache: this user has no home folder") == 1, said
