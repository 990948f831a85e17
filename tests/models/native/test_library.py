"""The compiled library: built once, kept, built again where it must be, and never required."""

import fnmatch
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from redpencil.models.native import check, library
from redpencil.models.native.library import Library

ROOT = Path(__file__).resolve().parents[3]

needs_a_compiler = pytest.mark.skipif(
    sys.platform != "linux" or not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="no C compiler for Linux here",
)


@pytest.fixture(autouse=True)
def afresh(monkeypatch, tmp_path):
    monkeypatch.setenv("REDPENCIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REDPENCIL_COMPILE", raising=False)
    monkeypatch.delenv("CC", raising=False)
    library.library.cache_clear()
    yield
    library.library.cache_clear()


def kept(tmp_path):
    return sorted((tmp_path / "cache" / "compiled").iterdir())


def copied(monkeypatch, tmp_path, name, old, new):
    """The C files elsewhere, with something in one of them changed."""
    for source in library.SOURCES:
        shutil.copy(library.FOLDER / source, tmp_path)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(library, "FOLDER", tmp_path)


def never(*args):
    raise AssertionError("compiled again")


@needs_a_compiler
def test_built_once_and_kept(monkeypatch, tmp_path):
    assert isinstance(library.library(), Library)
    (built,) = kept(tmp_path)
    assert built.suffix == ".so" and built.stat().st_mode & 0o022 == 0
    library.library.cache_clear()
    monkeypatch.setattr(library, "_build", never)
    assert isinstance(library.library(), Library)


@needs_a_compiler
@pytest.mark.parametrize("harm", ["damaged", "open to others"])
def test_a_build_that_cannot_be_trusted_is_made_again(monkeypatch, tmp_path, harm):
    library.library()
    (built,) = kept(tmp_path)
    if harm == "damaged":
        built.write_bytes(b"not a library")
    else:
        built.chmod(0o777)
    library.library.cache_clear()
    again, build = [], library._build
    monkeypatch.setattr(library, "_build", lambda *args: again.append(1) or build(*args))
    assert isinstance(library.library(), Library) and again
    assert kept(tmp_path) == [built] and built.stat().st_mode & 0o022 == 0


@needs_a_compiler
def test_another_source_is_another_build(monkeypatch, tmp_path):
    library.library()
    copied(monkeypatch, tmp_path, "vectors.h", "as wide as the CPU's", "of the CPU's width")
    library.library.cache_clear()
    library.library()
    assert len(kept(tmp_path)) == 2


@needs_a_compiler
def test_a_cache_that_cannot_be_written_to(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert isinstance(library.library(), Library)


@needs_a_compiler
def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    copied(monkeypatch, tmp_path, "elementwise.c", "typedef struct", "this is not C")
    reason = library.library()
    assert isinstance(reason, str) and "could not compile it" in reason
    assert "elementwise.c" in reason


@needs_a_compiler
@pytest.mark.parametrize(
    ("where", "error"),
    [("cache_folder", RuntimeError("Could not determine home directory.")),
     ("_key", FileNotFoundError("no C files")),
     ("_parallel", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")),
     ("_build", OSError("No space left on device"))],
)  # fmt: skip
def test_whatever_fails_torch_does_the_work(monkeypatch, where, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(library, where, fail)
    reason = library.library()
    assert isinstance(reason, str) and str(error) in reason


@needs_a_compiler
def test_a_compiler_with_arguments(monkeypatch, tmp_path):
    """As `CC="ccache gcc"` has them."""
    monkeypatch.setenv("CC", f"env -u NOTHING {library._compiler()[0]}")
    assert isinstance(library.library(), Library)
    assert len(kept(tmp_path)) == 1


@needs_a_compiler
def test_arguments_that_hide_the_functions(monkeypatch):
    monkeypatch.setenv("CC", f"{library._compiler()[0]} -fvisibility=hidden")
    reason = library.library()
    assert isinstance(reason, str) and "could not be built or loaded" in reason


@needs_a_compiler
def test_a_link_is_not_followed(monkeypatch, tmp_path):
    """Nor is a folder written to through a name that someone else could have guessed."""
    library.library()
    (built,) = kept(tmp_path)
    elsewhere = built.rename(tmp_path / "elsewhere.so")
    built.symlink_to(elsewhere)
    content = elsewhere.read_bytes()
    library.library.cache_clear()
    assert isinstance(library.library(), Library)
    assert not built.is_symlink() and elsewhere.read_bytes() == content
    assert built.parent.stat().st_mode & 0o077 == 0


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert library.library() == "no C compiler was found (cc, gcc, clang)"
    monkeypatch.setenv("CC", "nowhere-cc")
    library.library.cache_clear()
    assert library.library() == "no C compiler was found (nowhere-cc)"


def test_switched_off(monkeypatch):
    monkeypatch.setenv("REDPENCIL_COMPILE", "off")
    assert library.library() == "REDPENCIL_COMPILE is off"


def test_another_system(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert library.library() == "its own kernel is for Linux"


@needs_a_compiler
def test_threads_of_torch_that_are_not_to_be_found(monkeypatch):
    monkeypatch.setattr(library.torch._C, "__file__", str(library.FOLDER / "vectors.h"))
    assert library.library() == "torch's threads could not be found"


@needs_a_compiler
def test_a_kernel_that_is_wrong_is_refused(monkeypatch):
    for error in (check.attention_error, check.gate_error, check.norm_error, check.rotation_error):
        assert error() < 1e-5
    check.refusal.cache_clear()
    monkeypatch.setattr(check, "gate_error", lambda: 0.5)
    assert check.refusal() == "its own kernels are off by 0.5 on this machine"
    check.refusal.cache_clear()


@needs_a_compiler
@pytest.mark.parametrize(
    ("error", "name", "right", "wrong"),
    [
        (check.attention_error, "tree_attention.c", "row + j) - mean)", "row + j) + mean)"),
        (check.gate_error, "elementwise.c", "silu * (1.0f - s)", "silu * (1.0f + s)"),
        (check.norm_error, "elementwise.c", "(g - normal * mean)", "(g + normal * mean)"),
        (check.rotation_error, "elementwise.c", "two * s2 : -two * s1", "two * s2 : two * s1"),
    ],
)  # fmt: skip
def test_a_wrong_sign_is_noticed(monkeypatch, tmp_path, error, name, right, wrong):
    """The comparisons are none that anything passes."""
    copied(monkeypatch, tmp_path, name, right, wrong)
    assert error() > 0.01


@needs_a_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are switches of x86")
@pytest.mark.parametrize("narrower", ["-mno-avx512f", "-mno-avx"])
def test_narrower_vectors_compute_the_same(monkeypatch, narrower):
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, narrower))
    for error in (check.attention_error, check.gate_error, check.norm_error, check.rotation_error):
        assert error() < 1e-5


@needs_a_compiler
def test_compiles_without_a_warning():
    """For narrower vectors, too, as far as this compiler can."""
    for narrower in ((), ("-mno-avx512f",), ("-mno-avx",)):
        flags = ("-O3", "-march=native", *narrower, "-Wall", "-Wextra", "-fsyntax-only")
        sources = [str(library.FOLDER / name) for name in library.SOURCES if name.endswith(".c")]
        command = [*library._compiler(), *flags, *sources]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if narrower and "unrecognized" in done.stderr:
            continue
        assert (done.returncode, done.stderr) == (0, ""), flags


def test_the_source_comes_with_the_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = listed["tool"]["setuptools"]["package-data"]["redpencil"]
    for source in library.SOURCES:
        assert (library.FOLDER / source).is_file()
        assert any(fnmatch.fnmatch(f"models/native/{source}", pattern) for pattern in patterns)
