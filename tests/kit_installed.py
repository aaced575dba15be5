"""Environments in which only some of our extras are installed, without making one.

A process started with `environment(...)` cannot import any distribution that `pip install
'capo-credit[EXTRAS]'` would not have brought, so a module that is imported and not declared is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "capo-credit"
_BLOCKER = """\
import os
from importlib.machinery import PathFinder

_gone = set(os.environ["TEST_GONE"].split(","))
_find = PathFinder.find_spec


def _find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in _gone else _find(name, path, target)


PathFinder.find_spec = classmethod(_find_spec)
"""


def installed(extras: Iterable[str] = ()) -> set[str]:
    """Names of the distributions that these extras bring, with all that those need."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    wanted = [(PROJECT, extra) for extra in ("", *extras)]
    while wanted:
        name, extra = wanted.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system, or an extra that is not there
            continue
        found.add(name)
        for each in map(Requirement, needs):
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                wanted += [(canonicalize_name(each.name), more) for more in ("", *each.extras)]
    return found


@cache
def _modules() -> dict[str, set[str]]:
    """Top-level modules and the distributions that hold them."""
    found = metadata.packages_distributions()
    return {module: {canonicalize_name(name) for name in names} for module, names in found.items()}


def environment(
    folder: Path, extras: Iterable[str] = (), without: Iterable[str] = (), **variables: str
) -> dict[str, str]:
    """Variables for a process that sees no more than these extras.

    Args:
        folder: for the module that hides the rest.
        extras: of this project; none is the client alone.
        without: modules to hide in any case.
        variables: others.
    """
    there = installed(extras)
    gone = {module for module, names in _modules().items() if not names & there} | set(without)
    (folder / "sitecustomize.py").write_text(_BLOCKER)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "TEST_GONE": ",".join(sorted(gone))} | variables
