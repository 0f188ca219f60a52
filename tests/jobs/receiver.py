"""A receiver of webhooks that answers as its address asks."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Receiver(BaseHTTPRequestHandler):
    """Answers with the status in the path, and remembers what it got."""

    got: ClassVar[list[tuple[dict[str, str], bytes]]] = []
    leave: ClassVar[threading.Event] = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.got.append((dict(self.headers.items()), body))
        if self.path == "/silent":
            self.leave.wait()
            return
        self.send_response(int(self.path[1:]))
        self.send_header("Location", "/200")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[str]:
    Receiver.got.clear()
    Receiver.leave.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}"
    Receiver.leave.set()
    server.shutdown()
    server.server_close()
    thread.join()
