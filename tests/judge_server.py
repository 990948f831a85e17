"""A small real server of the chat completions protocol, with verdicts and faults by script."""

import json
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What a request gets instead of an answer."""

    status: int = 200
    body: str = ""
    headers: dict = field(default_factory=dict)
    hangs: bool = False
    """It answers only when the server is shut down: whoever asked has given up by then."""


class JudgeServer(ThreadingHTTPServer):
    """answer: what is said to a question. faults: taken one by one by the first requests."""

    daemon_threads = True

    def __init__(self, answer: Callable[[str], str], faults: list[Fault]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.faults = answer, list(faults)
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.ending = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is expected; anything else fails where the test can see it."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.headers.append(dict(self.headers))
        if self.path != "/v1/chat/completions":
            return self._send(404, '{"detail": "Not Found"}', {})
        if self.server.faults:
            fault = self.server.faults.pop(0)
            if fault.hangs:
                self.server.ending.wait(timeout=600)
            return self._send(fault.status, fault.body, fault.headers)
        said = self.server.answer(body["messages"][0]["content"])
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        content = {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": said}}],
            "usage": usage,
        }
        return self._send(200, json.dumps(content), {"Content-Type": "application/json"})

    def _send(self, status, body, headers):
        data = body.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def judge_server(answer=lambda question: "[[C]]", faults=()):
    server = JudgeServer(answer, list(faults))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
