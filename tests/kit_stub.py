"""A small HTTP server over real sockets whose answers a test scripts."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Stub:
    """`seen`: (method, path, body) of each request, in order."""

    url: str
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)


@contextmanager
def stub(
    answer: Callable[[str, str, bytes], Answer], port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Stub]:
    """Serve `answer(method, path, body)`."""
    found = Stub("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.seen.append((self.command, self.path, body))
            status, headers, content = answer(self.command, self.path, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_CONNECT = _serve

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def credited(body: bytes) -> Answer:
    """What a service answers that finds nothing wrong."""
    results = [
        {
            "id": each["id"],
            "status": "ok",
            "outcome": None,
            "steps": [],
            "token_rewards": [0.0] * len(each.get("response_token_ids") or []),
            "usage": {},
        }
        for each in json.loads(body)["rollouts"]
    ]
    text = "".join(json.dumps(each) + "\n" for each in results)
    return 200, {"Content-Type": "application/x-ndjson"}, text.encode()


def problem(status: int, kind: str = "t") -> Answer:
    content = {"type": f"urn:capo:problem:{kind}", "title": "T", "status": status, "detail": "d"}
    headers = {"Content-Type": "application/problem+json", "Retry-After": "0"}
    return status, headers, json.dumps(content).encode()


def page(status: int) -> Answer:
    return status, {"Content-Type": "text/html"}, b"<html>a proxy's page</html>"
