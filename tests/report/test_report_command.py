"""`redpencil report`: what it writes, and what it refuses in one sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest

from redpencil.cli.main import main


def test_one_run_is_written_into_its_folder_or_where_out_says(
    new_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = new_run(pairs=10)
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    elsewhere = tmp_path / "page.html"
    assert main(["report", str(folder), "--out", str(elsewhere)]) == 0
    assert elsewhere.read_bytes() == (folder / "report.html").read_bytes()


def test_several_are_written_here(
    noted_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folders = [str(noted_run(name, pairs=10)) for name in ("first", "second")]
    monkeypatch.chdir(tmp_path)
    assert main(["report", *folders]) == 0
    assert "first" in (tmp_path / "compare.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "80"], "--port does nothing without --watch"),
        (["--watch", "--out", "x.html"], "--out does nothing with --watch"),
        (["--watch", "--port", "0"], "is not a port"),
        (["--watch", "--port", "http"], "is not a port"),
        (["--out", "notes.txt"], "is not a report of redpencil"),
        (["--out", "."], "is not a report of redpencil"),
        (["nowhere"], "does not exist"),
        (["--frob"], "does not know '--frob'"),
    ],
)
def test_mistakes_are_one_sentence(
    options: list[str],
    said: str,
    new_run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    folder = new_run(pairs=10)
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", str(folder), *options]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert sorted(tmp_path.rglob("*")) == before and Path("notes.txt").read_text() == "mine"
