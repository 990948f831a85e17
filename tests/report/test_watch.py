"""The watched page: one address, this machine only, made anew when the run's files changed."""

import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from redpencil.cli.main import main
from redpencil.errors import RunFolderError
from redpencil.report import watch_report
from redpencil.report.watch import Server, Watched, stamp


@contextmanager
def serving(*folders: Path) -> Iterator[Server]:
    server = watch_report(list(folders), free_port(), pause=0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(server: Server, path: str, host: str = "", method: str = "GET") -> tuple[int, Any, str]:
    """(status, headers, body) of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=300)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read().decode("utf-8")
    connection.close()
    return answer.status, answer.headers, body


@pytest.fixture
def starting(noted_run: Callable[..., Path]) -> Path:
    """A run before its first evaluation: a recipe and one step."""
    folder = noted_run(pairs=20)
    whole = folder.with_name("whole")
    folder.rename(whole)
    folder.mkdir()
    (folder / "recipe.yaml").write_bytes((whole / "recipe.yaml").read_bytes())
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.69}\n{"step": 2, "lo')
    return folder


def finish(folder: Path) -> None:
    """Gives a starting run all that the whole one has."""
    for path in folder.with_name("whole").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    folder.with_name("whole").joinpath("pairs.parquet").rename(folder / "pairs.parquet")


def test_only_the_page_and_its_version_are_served(starting: Path):
    with serving(starting) as server:
        status, headers, html = ask(server, "/")
        assert status == 200 and "training: step 1 of 200" in html
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
        assert policy and f"connect-src {server.address}/version;" in policy[1].replace(
            "&#39;", "'"
        )
        assert "default-src 'none'" in policy[1].replace("&#39;", "'")
        assert headers["X-Content-Type-Options"] == "nosniff" and "torch" not in str(headers)
        for path in ("/recipe.yaml", "/metrics.jsonl", "/..", "/%2e%2e/", "/version/x", "/a"):
            assert ask(server, path)[0] == 404, path
        assert ask(server, "/", method="POST")[0] in (405, 501)
        assert ask(server, "/", method="HEAD")[2] == ""
        assert server.server_address[0] == "127.0.0.1"
    assert not (starting / "report.html").exists()


def test_other_hosts_are_sent_away(starting: Path):
    with serving(starting) as server:
        port = server.server_address[1]
        for host in (
            "evil.example",
            f"evil.example:{port}",
            f"127.0.0.1:{port + 1}",
            f"0.0.0.0:{port}",
        ):
            for path in ("/", "/version"):
                status, _, body = ask(server, path, host)
                assert status == 403 and "<html" not in body, host
        status, headers, _ = ask(server, "/", f"localhost:{port}")
        assert status == 307 and headers["Location"] == f"{server.address}/"


def test_a_change_of_the_files_is_another_version_and_page(starting: Path):
    with serving(starting) as server:
        first, page = ask(server, "/version")[2], ask(server, "/")[2]
        assert ask(server, "/version")[2] == first and ask(server, "/")[2] == page
        assert f"?{first}" in page
        with (starting / "metrics.jsonl").open("a") as file:
            file.write('ss": 0.68}\n')
        second = ask(server, "/version")[2]
        assert second != first
        assert "training: step 2 of 200" in ask(server, "/")[2]
        finish(starting)
        html = ask(server, "/")[2]
        assert "finished after 200" in html and 'id="pairs-data"' in html


def test_a_page_lasts_for_a_while(starting: Path):
    made = []
    watched = Watched([starting], lambda ask: made.append(ask) or "page", pause=1000)
    first, _ = watched.page("http://here/version")
    (starting / "metrics.jsonl").write_text('{"step": 1}\n')
    assert watched.version() == first and watched.page("http://here/version")[0] == first
    assert made == [f"http://here/version?{first}"] and stamp([starting]) != first


def test_what_cannot_be_read_for_a_moment_does_not_take_the_page_away(starting: Path):
    with serving(starting) as server:
        before = ask(server, "/")[2]
        for path in starting.iterdir():
            path.unlink()
        assert ask(server, "/")[2] == before


def test_a_page_that_cannot_be_made_is_said(starting: Path):
    def fail(address: str) -> str:
        raise OverflowError("too large\nand more")

    server = Server(Watched([starting], fail), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        status, _, body = ask(server, "/")
    finally:
        server.shutdown()
        server.server_close()
    assert (status, body) == (500, "the page could not be made: OverflowError: too large\n")


def test_a_port_that_is_taken_is_said(starting: Path):
    with serving(starting) as server:
        port = server.server_address[1]
        with pytest.raises(RunFolderError, match=f"port {port} of 127.0.0.1 cannot be had"):
            watch_report([starting], port)
    with pytest.raises(RunFolderError, match="does not exist"):
        watch_report([starting / "nowhere"])


def test_ctrl_c_ends_the_command_quietly(starting: Path):
    command = [sys.executable, "-m", "redpencil.cli.main", "report", str(starting), "--watch"]
    with subprocess.Popen(
        [*command, "--port", str(free_port())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout
        line = running.stdout.readline()
        assert re.search(r"watching .*: http://127\.0\.0\.1:\d+ ", line)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=600)
    assert (running.returncode, out, err) == (0, "", "")


def test_a_run_that_has_not_begun_is_waited_for(starting: Path, tmp_path: Path):
    later = tmp_path / "later"
    command = [sys.executable, "-m", "redpencil", "report", str(later), "--watch"]
    with subprocess.Popen(
        [*command, "--port", str(free_port())], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        assert f"waiting   for {later} to begin" in running.stdout.readline()
        (later / "preferred-ft").mkdir(parents=True)
        scratch = tmp_path / "scratch"
        shutil.copytree(starting, scratch)
        for path in scratch.iterdir():
            path.rename(later / path.name)
        assert f"watching  {later}: http" in running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=300) == 0


def test_a_folder_of_something_else_is_not_waited_for(tmp_path: Path, capsys):
    (tmp_path / "notes.txt").write_text("not a run")
    assert main(["report", str(tmp_path), "--watch"]) == 2
    assert f"{tmp_path} is not a run of redpencil" in capsys.readouterr().err


def test_the_page_refreshes_itself_and_stays_where_it_was(
    open_page: Callable[..., Any], noted_run: Callable[..., Path]
):
    expect = pytest.importorskip("playwright.sync_api").expect
    folder = noted_run(pairs=60)
    rows = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(rows[:100]))
    (folder / "summary.json").rename(folder / "summary.later")
    with serving(folder) as server:
        page = open_page(server.address)
        assert page.inner_text(".progress").startswith("training: step")
        page.click("[data-show=all]")
        page.fill("#find", "film number 1")
        page.select_option("#sort", "margin")
        expect(page.locator("#found")).not_to_have_text("60 pairs")
        found = page.inner_text("#found")
        page.locator("#rows .open").nth(4).click()
        opened = page.evaluate("location.hash")
        page.locator("tr.opened").evaluate(
            "row => scrollBy(0, row.getBoundingClientRect().top - 50)"
        )
        page.evaluate("window.unrefreshed = true")
        (folder / "metrics.jsonl").write_text("".join(rows))
        (folder / "summary.later").rename(folder / "summary.json")
        expect(page.locator(".progress")).to_contain_text("finished after 200 steps")
        page.wait_for_selector("html[data-drawn]")
        assert page.evaluate("window.unrefreshed") is None
        assert page.inner_text("#found") == found and page.input_value("#find") == "film number 1"
        assert page.input_value("#sort") == "margin"
        assert page.evaluate("location.hash") == opened
        assert f"row-{opened.removeprefix('#pair-')}" == page.get_attribute("tr.opened", "id")
        top = page.locator("tr.opened").evaluate("row => row.getBoundingClientRect().top")
        assert abs(top - 50) < 3
        asked = {url.partition("?")[0] for url in page.requested if url.startswith("http")}
        assert asked <= {f"{server.address}/", f"{server.address}/version"}


def test_filters_stay_where_the_opened_pair_or_a_button_is_gone(
    open_page: Callable[..., Any], noted_run: Callable[..., Path]
):
    expect = pytest.importorskip("playwright.sync_api").expect
    folder = noted_run(pairs=60)
    pairs = folder / "pairs.jsonl"
    rows = [json.loads(line) for line in pairs.read_text("utf-8").splitlines()]

    def refreshed(page: Any) -> None:
        page.wait_for_selector("html[data-drawn]:not([data-old])", timeout=240_000)

    with serving(folder) as server:
        page = open_page(server.address)
        page.fill("#find", "film")
        expect(page.locator("[data-show=wrong]")).to_have_attribute("aria-pressed", "true")
        page.locator("#rows .open").first.click()
        opened = int(page.evaluate("location.hash").rpartition("-")[2])
        page.evaluate("document.documentElement.dataset.old = true")
        for row in rows:
            if (row["split"], row["step"], row["pair"]) == ("eval", 200, opened):
                row |= {"margin": 5.0, "weight": 0.01}
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        refreshed(page)
        expect(page.locator("[data-show=wrong]")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("[data-split=eval]")).to_have_attribute("aria-pressed", "true")
        assert page.input_value("#find") == "film" and page.locator("tr.detail").count() == 0
        page.click("[data-show=suspect]")
        page.evaluate("document.documentElement.dataset.old = true")
        (folder / "suspects.jsonl").unlink()
        refreshed(page)
        assert page.locator("[data-show=suspect]").count() == 0
        expect(page.locator("[data-show=wrong]")).to_have_attribute("aria-pressed", "true")
        assert page.locator("#rows .open").count() > 0


def test_several_runs_are_watched_together(noted_run: Callable[..., Path]):
    folders = [noted_run("first", pairs=20), noted_run("second", pairs=20)]
    summary = json.loads((folders[1] / "summary.json").read_text())
    (folders[1] / "summary.json").unlink()
    with serving(*folders) as server:
        assert "training: second at step 200 of 200" in ask(server, "/")[2]
        (folders[1] / "summary.json").write_text(json.dumps(summary))
        assert "training: second" not in ask(server, "/")[2]
