"""A page that follows its run: served on this machine only, made anew when the files changed.

One address answers with the page and one with its version, and nothing else is served. The page
asks for the version now and then, and loads itself again when it is another.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from redpencil.errors import RedpencilError, RunFolderError

HOST = "127.0.0.1"
PORT = 8765
"""The first choice; where it is taken and none was asked for, any free one."""

FILES = ("*.yaml", "*.json", "*.jsonl", "*.parquet", "pairs.parquet/*.parquet")
"""What the report reads."""

PAUSE = 5.0
"""Seconds that a page lasts at least: a run logs every step, and a reader wants to read."""
SHARE = 0.05
"""Of the machine's time that making pages may take: the run needs it."""

Render = Callable[[str], str]
"""From the address of the version to a page that asks there."""


def stamp(folders: Sequence[Path]) -> str:
    """A version that changes when a file of the report does: names, sizes and times."""
    seen = hashlib.blake2b(digest_size=12)
    for path in sorted(_files(folders)):
        try:
            facts = path.stat()
        except OSError:  # it went away in between
            continue
        seen.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode("utf-8", "replace"))
    return seen.hexdigest()


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        for pattern in FILES:
            yield from folder.glob(pattern)


class Watched:
    """The newest page, made when it is asked for and its files changed."""

    def __init__(self, folders: Sequence[Path], render: Render, pause: float = PAUSE) -> None:
        self.folders = folders
        self.render = render
        self.pause = pause
        self._lock = threading.Lock()
        self._page: tuple[str, bytes] | None = None
        self._lasts_until = 0.0

    def version(self) -> str:
        """That of the files, or of the page as long as it must last."""
        if self._page is not None and time.monotonic() < self._lasts_until:
            return self._page[0]
        return stamp(self.folders)

    def page(self, address: str) -> tuple[str, bytes]:
        """(version, page as bytes). Where the files cannot be read at the moment, the page of
        before stays. Raises RedpencilError when there never was one."""
        with self._lock:
            version = self.version()
            if self._page is None or self._page[0] != version:
                began = time.monotonic()
                try:
                    html = self.render(f"{address}?{version}")
                except RedpencilError:
                    if self._page is None:
                        raise
                    return self._page
                self._page = (version, html.encode("utf-8", "replace"))
                ended = time.monotonic()
                rest = max(self.pause, (ended - began) / SHARE) if self.pause else 0.0
                self._lasts_until = ended + rest
            return self._page


class Server(ThreadingHTTPServer):
    """Serves a watched page on the loopback."""

    daemon_threads = True

    def __init__(self, watched: Watched, port: int) -> None:
        self.watched = watched
        super().__init__((HOST, port), _Handler)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"

    @property
    def asked(self) -> str:
        """Where a page asks for the version."""
        return f"{self.address}/version"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "redpencil"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""

    def _answer(self, body: bool) -> None:
        own = self.server.address
        host = self.headers.get("Host", "")
        port = own.rpartition(":")[2]
        if host == f"localhost:{port}":
            self._send(HTTPStatus.TEMPORARY_REDIRECT, b"", "text/plain", ("Location", f"{own}/"))
        elif host != own.removeprefix("http://"):
            # A page from elsewhere whose name was made to point here (DNS rebinding) ends here.
            self._send(HTTPStatus.FORBIDDEN, b"not this host\n", "text/plain")
        elif self.path.partition("?")[0] == "/":
            try:
                _, page = self.server.watched.page(self.server.asked)
            except RedpencilError as error:
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode(), "text/plain")
                return
            except Exception as error:  # the reader is told, for the handler is quiet
                said = f"{type(error).__name__}: {error}".split("\n")[0]
                content = f"the page could not be made: {said}\n".encode("utf-8", "replace")
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, content, "text/plain")
                return
            self._send(HTTPStatus.OK, page if body else b"", "text/html", length=len(page))
        elif self.path.partition("?")[0] == "/version":
            self._send(HTTPStatus.OK, self.server.watched.version().encode(), "text/plain")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"not here\n", "text/plain")

    def _send(
        self,
        status: HTTPStatus,
        content: bytes,
        kind: str,
        *headers: tuple[str, str],
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        fixed = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content) if length is None else length),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in (*fixed.items(), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def serve(watched: Watched, port: int | None) -> Server:
    """A server that listens, on `port` or on one that is free.

    Raises RunFolderError when the port cannot be had, or the page cannot be made.
    """
    server = _bound(watched, port)
    try:
        watched.page(server.asked)  # what cannot be shown is said now
    except RedpencilError:
        server.server_close()
        raise
    return server


def _bound(watched: Watched, port: int | None) -> Server:
    try:
        return Server(watched, PORT if port is None else port)
    except OSError as error:
        if port is None:
            return Server(watched, 0)
        raise RunFolderError(f"port {port} of {HOST} cannot be had: {error.strerror}") from error
