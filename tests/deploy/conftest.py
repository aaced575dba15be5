"""Programs that a platform runs beside the service, from Debian's packages."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="session")
def debian() -> ModuleType:
    import debian as tool

    tool.unpack(["prometheus", "haproxy"])
    return tool
