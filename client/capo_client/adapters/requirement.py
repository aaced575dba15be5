"""Checks that a framework is installed in a supported version."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re


def require(module: str, distribution: str, at_least: str) -> None:
    """Check a framework before it is imported.

    Args:
        module: its module.
        distribution: its name for pip.
        at_least: the oldest supported version.

    Raises:
        ImportError: it is missing or too old. A source tree without a version passes.
    """
    requirement = f"capo_client needs {distribution} {at_least} or newer for this adapter"
    fix = f"pip install '{distribution}>={at_least}'"
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{requirement}, which is not installed: {fix}")
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return
    if _numbers(version) < _numbers(at_least):
        raise ImportError(f"{requirement}, but {version} is installed: {fix}")


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, leading[0].split("."))) if leading else ()
