"""Where the value of each setting comes from."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from pathlib import Path

from capo_service.settings import environment
from capo_service.settings.fields import Settings

COMMAND_LINE = "command line"


def sources(config: Path | None, overrides: Iterable[str]) -> dict[str, list[str]]:
    """By setting that was given: where, first what wins; several of a table are merged by key.

    Args:
        config: a TOML file that was loaded.
        overrides: names of settings from the command line.
    """
    found: dict[str, list[str]] = {}
    for name in overrides:
        found.setdefault(name, []).append(COMMAND_LINE)
    for variable, value in os.environ.items():
        name = variable.lower().removeprefix(environment.PREFIX.lower())
        is_ours = variable.upper() == environment.PREFIX + name.upper()
        if (
            name in Settings.model_fields
            and is_ours
            and not environment.is_service_link(variable.upper(), value)
        ):
            found.setdefault(name, []).append(variable)
    if config is not None:
        for name in tomllib.loads(config.read_text("utf-8")):
            found.setdefault(name, []).append(config.name)
    if os.environ.get(environment.API_KEY) and not found.keys() & {"api_keys", "api_keys_file"}:
        found["api_keys"] = [environment.API_KEY]
    return found
