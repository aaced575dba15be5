"""Whether a framework is there, and new enough; else one sentence that says what to do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re


def require(module: str, distribution: str, at_least: str) -> None:
    """Check before a framework is imported.

    Args:
        module: what is imported.
        distribution: what pip installs.
        at_least: the oldest version that this adapter was made for.

    Raises:
        ImportError: it is missing or too old. A copy of its source without a version passes.
    """
    wanted = f"capo_client needs {distribution} {at_least} or newer for this adapter"
    fix = f"pip install '{distribution}>={at_least}'"
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{wanted}, and it is not installed here: {fix}")
    try:
        found = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return
    if _numbers(found) < _numbers(at_least):
        raise ImportError(f"{wanted}, but {found} is installed: {fix}")


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, leading[0].split("."))) if leading else ()
