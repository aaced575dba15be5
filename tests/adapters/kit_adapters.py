"""Shared by the tests of adapters; only the standard library, torch and transformers."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

URL = os.environ.get("CAPO_URL", "")
MODEL = os.environ.get("CAPO_TEST_MODEL", "")  # folder of SmolLM2-135M-Instruct

QUESTIONS = [
    ("Tom has 3 bags with 4 apples each. He eats 2. How many apples are left?", "10"),
    ("What is 12 * 8 - 75?", "21"),
    ("A train goes 60 km in an hour. How far does it go in 3 hours?", "180"),
    ("Ann buys 5 pens at 2 dollars and pays with a 20. What is her change?", "10"),
]
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens


class Cable:
    """The way to the service, which a test can cut: `url` refuses everyone from then on."""

    def __init__(self) -> None:
        self._target = urlsplit(URL)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection((self._target.hostname, self._target.port))
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for each in (self._server, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def cable() -> Iterator[Cable]:
    made = Cable()
    try:
        yield made
    finally:
        made.cut()
