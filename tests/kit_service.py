"""A real service over real HTTP in this process, around any engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from capo_service.api.app import create_app
from capo_service.api.runtime import Runtime
from capo_service.engine.base import Engine
from capo_service.settings import Settings
from kit import tokenizer

READY_SECONDS = 60


@dataclass
class Service:
    url: str
    runtime: Runtime
    loop: asyncio.AbstractEventLoop


@contextmanager
def serving(engine: Engine, settings: Settings, wait: bool = True) -> Iterator[Service]:
    app = create_app(settings, engine)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    until = time.monotonic() + READY_SECONDS
    try:
        while not server.started or (wait and app.state.runtime.why_not_ready is not None):
            assert thread.is_alive() and time.monotonic() < until, "the service did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Service(f"http://127.0.0.1:{port}", app.state.runtime, loops[0])
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
    }  # fmt: skip
    return Settings(**{**defaults, **given})  # type: ignore[arg-type]
