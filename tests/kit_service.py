"""A real service over real HTTP in this process, around any engine."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from capo_service.api.app import create_app
from capo_service.api.server import server_config
from capo_service.engine.base import Completion, Engine
from capo_service.pipeline.service import Service as RunningService
from capo_service.settings import Settings
from kit import tokenizer
from kit_scripted import ScriptedEngine

READY_SECONDS = 60


@dataclass
class Service:
    url: str
    service: RunningService
    loop: asyncio.AbstractEventLoop


@contextmanager
def serving(engine: Engine, settings: Settings, wait: bool = True) -> Iterator[Service]:
    app = create_app(settings, engine)
    config = server_config(settings.model_copy(update={"port": 0}), app)
    server = uvicorn.Server(config)
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    until = time.monotonic() + READY_SECONDS
    try:
        while not server.started or (wait and app.state.service.why_not_ready is not None):
            assert thread.is_alive() and time.monotonic() < until, "the service did not start"
            time.sleep(0.01)
        scheme = "https" if config.is_ssl else "http"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Service(f"{scheme}://127.0.0.1:{port}", app.state.service, loops[0])
    finally:
        server.should_exit = True
        thread.join(READY_SECONDS)


def settings(folder: Path, **given: object) -> Settings:
    """Settings with two small tokenizers, `gpt2` and `llama2`."""
    tokenizers = {}
    for kind in ("gpt2", "llama2"):
        path = folder / f"{kind}.json"
        tokenizer(kind).save(str(path))
        tokenizers[kind] = str(path)
    defaults: dict[str, object] = {
        "tokenizers": tokenizers, "verify_workers": 1, "drain_seconds": 1, "nonce_secret": "s",
        "result_cache": "none", "model": "embedded",  # whose template and style are the built-in ones
    }  # fmt: skip
    return Settings(**{**defaults, **given})  # type: ignore[arg-type]


class HeldEngine(ScriptedEngine):
    """Answers nothing until it is let go."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._released = asyncio.Event()

    async def complete(self, *given: Any) -> Completion:
        await self._released.wait()
        return await super().complete(*given)

    def let_go(self, service: Service) -> None:
        service.loop.call_soon_threadsafe(self._released.set)


ROLLOUT = {"question": "q", "response": "a\n\nb", "outcome": 1}


def body(*rollouts: Any, **options: Any) -> dict[str, Any]:
    return {"rollouts": list(rollouts) or [ROLLOUT], **options}


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def wait_for_lines(path: Path, count: int, job: subprocess.Popen[Any], seconds: float = 60) -> None:
    """Until a process that is still running has written so many lines."""
    until = time.monotonic() + seconds
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < until and job.poll() is None
        time.sleep(0.05)


class Background:
    """A request in a thread of its own."""

    def __init__(self, service: Service | str, payload: dict[str, Any], **headers: str) -> None:
        self.response: httpx.Response | None = None
        url = service if isinstance(service, str) else service.url
        self._thread = threading.Thread(target=self._run, args=(url, payload, headers))
        self._thread.start()

    def _run(self, url: str, payload: dict[str, Any], headers: dict[str, str]) -> None:
        self.response = httpx.post(f"{url}/credit", json=payload, timeout=60, headers=headers)

    def wait(self) -> httpx.Response:
        self._thread.join(60)
        assert self.response is not None
        return self.response
