"""`capo serve --print-config`: the settings in effect, as TOML, with the source of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from capo_service.settings import Settings
from capo_service.settings.fields import GROUPS

_HEAD = """\
# Settings of `capo serve`. Lines without a leading # were set, by what stands behind the value; the
# others are defaults. Save this as a file for --config, with the secrets filled in.
"""
HIDDEN = "<hidden>"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_USER = re.compile(r"(?<=://)[^/\s]+@")  # user and password in a URL; a password may have an @
_PASSWORD = re.compile(r"(?<=[?&]password=)[^&\s]+")  # as Redis clients take it
_SECRET_ARGUMENT = re.compile(r"(^|_)(token|key|secret|password)$")  # such as hf_token


def as_toml(
    settings: Settings, given: Mapping[str, Sequence[str]], found: Mapping[str, Any] | None = None
) -> str:
    """The settings as TOML.

    Args:
        settings: the settings.
        given: where the value of each setting that is not a default comes from.
        found: by setting, the value that the service finds where none is given.
    """
    return _HEAD + "".join(f"{line}\n" for line in _lines(settings, given, found or {}))


def _lines(
    settings: Settings, given: Mapping[str, Sequence[str]], found: Mapping[str, Any]
) -> Iterator[str]:
    for group in GROUPS:
        yield f"\n# {group.__doc__}"
        for name in group.model_fields:
            value = _plain(getattr(settings, name))
            if name not in given:
                value = found.get(name, value)
            try:
                line = f"{name} = {_toml(value)}"
            except TypeError:  # null, or an object of vLLM's
                line = f"# {name} = {value!r}"
            if name in given:
                hidden = "# " if HIDDEN in line and not line.startswith("#") else ""
                yield f"{hidden}{line}  # {', '.join(given[name])}"
            elif value is None:
                yield f"# {name} is not set"
            else:
                yield f"# {line}"


def _plain(value: Any, name: str = "") -> Any:
    """A value without what TOML lacks, and without secrets."""
    if isinstance(value, SecretStr) or (value is not None and _SECRET_ARGUMENT.search(name)):
        return HIDDEN
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return _PASSWORD.sub(HIDDEN, _USER.sub(f"{HIDDEN}@", value))
    if isinstance(value, Mapping):
        return {key: _plain(each, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    return value


def _toml(value: Any) -> str:
    """A value in TOML, whose strings, numbers, booleans and arrays are those of JSON."""
    if isinstance(value, dict):
        pairs = (f"{_key(name)} = {_toml(each)}" for name, each in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str | int | float):
        return json.dumps(value, ensure_ascii=False)
    raise TypeError(f"{type(value).__name__} is not in TOML")


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)
