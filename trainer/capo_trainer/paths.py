"""Where models made on this machine are kept; the service looks for them in the same folders."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The project's part of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "capo-credit"


def testbed_folder() -> Path:
    """Where `capo testbed` writes by default."""
    return cache_folder() / "testbed"
