"""docs/architecture.md says what is so: its modules exist, and a request takes the path that it shows."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest

from capo_service.api.app import create_app
from kit_scripted import ScriptedEngine
from kit_service import body, settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PATH = re.findall(r"^\| \d+ \| `([\w.]+)` \| `([\w.]+)` \|$", PAGE, re.MULTILINE)
ENGINE = ("kit_scripted", "ScriptedEngine.complete")
SERVICE = ROOT / "service" / "capo_service"


def test_every_module_named_exists() -> None:
    named = set(re.findall(r"`(capo_\w+(?:\.\w+)*)`", PAGE))
    assert len(named) > 15
    for module in named:
        importlib.import_module(module)


def test_the_packages_and_rooms_shown_are_all_there_are() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/capo_*/__init__.py")}
    assert packages == {name for name in set(re.findall(r"\bcapo_\w+\b", PAGE)) if "." not in name}
    picture = PAGE.partition("## Rooms of the service")[2].split("```")[1]
    shown = re.findall(r"^   (\w+)", picture, re.MULTILINE)
    shown += re.findall(r"─── (\w+)", picture)
    rooms = {path.parent.name for path in SERVICE.glob("*/__init__.py")}
    assert set(shown) == rooms
    assert len(list(SERVICE.glob("[!_]*"))) + 1 <= 13, "the service's top level, with __init__"


def test_every_function_of_the_path_exists_and_the_picture_shows_the_same() -> None:
    for module, name in PATH:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)
    drawn = re.findall(r"^ +│ +\d+ +([\w.]+)", PAGE, re.MULTILINE)
    assert drawn == [name for _, name in PATH]


def test_the_path_has_at_most_nine_hops_and_enters_no_module_twice() -> None:
    assert 0 < len(PATH) <= 9
    visits = [module for module, _ in groupby(module for module, _ in PATH)]
    assert len(visits) == len(set(visits))


@contextmanager
def recorded(seen: list[tuple[str, str]]) -> Iterator[None]:
    """Functions as they are first entered, those of the path and the engine."""

    def profile(frame: FrameType, event: str, _: object) -> None:
        entered = (frame.f_globals.get("__name__", ""), frame.f_code.co_qualname)
        if event == "call" and entered not in seen and entered in (*PATH, ENGINE):
            seen.append(entered)

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_takes_the_path_in_this_order(tmp_path: Path, stream: bool) -> None:
    app = create_app(settings(tmp_path), ScriptedEngine())
    service = app.state.service
    await service.start(wait=True)
    seen: list[tuple[str, str]] = []
    headers = {"Accept": "application/x-ndjson"} if stream else {}
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://test"
        ) as client:
            with recorded(seen):
                answer = await client.post("/credit", json=body(), headers=headers)
        assert answer.status_code == 200
    finally:
        await service.close()
    expected = [hop for hop in PATH if not (stream and hop[1] == "credit_json")]
    assert seen == [*expected, ENGINE]
