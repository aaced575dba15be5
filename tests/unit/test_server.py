"""What the log says of where the service is and who can reach it, without listening anywhere."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from capo_service.api.server import CannotListenError, Server, address
from capo_service.scheduling.api_keys import KeyRing
from capo_service.settings import Settings

Named = tuple[str, int] | tuple[str, int, int, int]


def sockets(*names: Named) -> list[Any]:
    return [SimpleNamespace(getsockname=lambda name=name: name) for name in names]


@pytest.mark.parametrize(
    ("given", "names", "url"),
    [
        ({}, [("127.0.0.1", 8000)], "http://127.0.0.1:8000"),
        ({"port": 0}, [("127.0.0.1", 40123)], "http://127.0.0.1:40123"),
        ({"host": "0.0.0.0"}, [("0.0.0.0", 8000)], "http://127.0.0.1:8000"),
        ({"host": "::"}, [("::", 8000, 0, 0)], "http://[::1]:8000"),
        ({"host": "::1"}, [("::1", 8000, 0, 0)], "http://[::1]:8000"),
        ({"host": ""}, [("0.0.0.0", 8000), ("::", 8000, 0, 0)], "http://127.0.0.1:8000"),
        (
            {"host": "localhost"},
            [("127.0.0.1", 8000), ("::1", 8000, 0, 0)],
            "http://localhost:8000",
        ),
        (
            {"host": "localhost", "port": 0},
            [("127.0.0.1", 41), ("::1", 42, 0, 0)],
            "http://127.0.0.1:41",
        ),
        ({"host": "10.1.2.3"}, [("10.1.2.3", 8000)], "http://10.1.2.3:8000"),
    ],
)
def test_the_address_is_one_that_a_browser_here_can_open(
    given: dict[str, Any], names: Sequence[Named], url: str
) -> None:
    assert address(Settings(**given), sockets(*names)) == url


def test_a_service_with_tls_is_at_https(tmp_path: Path) -> None:
    pem = tmp_path / "pem"
    pem.touch()
    settings = Settings(host="judge.example", tls_cert=pem, tls_key=pem)
    assert address(settings, sockets(("10.1.2.3", 8000))) == "https://judge.example:8000"


@pytest.fixture(autouse=True)
def _notes_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a server notes for health checks of this machine stays in this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


async def started(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, keys: KeyRing, *names: Named
) -> None:
    """A server that has begun to listen there, and whose judge is loaded."""

    async def startup(self: uvicorn.Server, sockets_: Any = None) -> None:
        self.servers = [SimpleNamespace(sockets=sockets(*names))]  # type: ignore[list-item]

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    key_watch = SimpleNamespace(reload=lambda: None)
    loaded = asyncio.Event()
    loaded.set()
    service: Any = SimpleNamespace(
        keys=keys,
        key_watch=key_watch,
        settings=settings,
        loaded=loaded,
        backend=SimpleNamespace(model="m"),
    )
    await Server(uvicorn.Config("none:none"), service).startup()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("names", "keys", "warns"),
    [
        ([("127.0.0.1", 8000)], [], False),
        ([("127.0.0.1", 8000), ("::1", 8000, 0, 0)], [], False),
        ([("0.0.0.0", 8000)], [], True),
        ([("::", 8000, 0, 0)], [], True),
        ([("127.0.0.1", 8000), ("10.1.2.3", 8000)], [], True),
        ([("0.0.0.0", 8000)], ["secret"], False),
    ],
)
async def test_who_opens_a_service_without_keys_is_told(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    names: list[Named],
    keys: list[str],
    warns: bool,
) -> None:
    caplog.set_level(logging.INFO)
    await started(monkeypatch, Settings(), KeyRing(keys), *names)
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == warns
    assert all("no API key is needed" in text and "CAPO_API_KEY" in text for text in warnings)
    assert "Ready: judge m at http://" in caplog.records[-1].getMessage()


async def test_mutual_tls_is_no_open_door(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    pem = tmp_path / "pem"
    pem.touch()
    settings = Settings(tls_cert=pem, tls_key=pem, tls_client_ca=pem)
    await started(monkeypatch, settings, KeyRing(), ("0.0.0.0", 8000))
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


async def test_a_port_that_is_taken_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def startup(self: uvicorn.Server, sockets_: Any = None) -> None:
        self.lifespan = SimpleNamespace(should_exit=False)  # type: ignore[assignment]
        raise SystemExit(3)

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    key_watch = SimpleNamespace(reload=lambda: None)
    service: Any = SimpleNamespace(key_watch=key_watch, settings=Settings())
    with pytest.raises(CannotListenError):
        await Server(uvicorn.Config("none:none"), service).startup()


@pytest.mark.parametrize(("settings", "warns"), [({}, True), ({"api_keys": ["secret"]}, False)])
def test_rays_proxy_without_keys_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
    warns: bool,
) -> None:
    ray_serve = pytest.importorskip("capo_service.api.ray_serve")
    monkeypatch.setattr(ray_serve.logs, "set_up", lambda settings: None)
    replica = ray_serve.CreditService.func_or_class.__mro__[1]  # without what Ray wraps around it
    replica({"engine": "symbolic"} | settings)
    told = [each for each in caplog.records if "no API key is needed" in each.getMessage()]
    assert len(told) == warns
