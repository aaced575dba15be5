"""Loads the settings, and explains errors in the names that the user wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from capo_service.settings import environment
from capo_service.settings.fields import Settings
from capo_service.settings.server import can_be_sent
from capo_wire.validation import message_of

# pydantic's error about a default that depends on a field which has an error itself.
_FOLLOWS = "default_factory_not_called"
# Their values are not shown in errors; the URL of a cache may hold a password.
_SECRETS = {"api_keys", "upstream_api_key", "nonce_secret", "result_cache"}
_HINTS = {
    "list_type": """ (write a list: --set '{}=["a", "b"]')""",
    "dict_type": """ (write an object: --set '{}={{"name": "value"}}')""",
}
_OPTION = {"tokenizers": "--tokenizer NAME=PATH", "engine_args": "--engine-arg NAME=VALUE"}


class SettingsError(ValueError):
    """A setting is unknown or has a value that cannot be used; the message names each."""


def load(config: Path | None = None, **overrides: Any) -> Settings:
    """Settings from `overrides`, CAPO_* variables and a TOML file, in this order.

    Without `api_keys` and `api_keys_file`, CAPO_API_KEY is the only key that clients may send.

    Raises:
        SettingsError: a setting is unknown or has a value that cannot be used.
    """
    if config is not None and not config.is_file():
        raise SettingsError(f"config file {config} does not exist")
    known = set(Settings.model_fields)
    if (problem := environment.unknown_variable(os.environ, known)) is not None:
        raise SettingsError(problem)

    class Loaded(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        loaded = Loaded(**overrides)
    except ValidationError as error:
        messages = [_explain(item, known) for item in error.errors() if item["type"] != _FOLLOWS]
        raise SettingsError("; ".join(messages)) from None
    except ValueError as error:  # TOML that cannot be parsed, JSON in a variable
        raise SettingsError(_explain_source(error)) from None
    return _with_client_key(loaded, os.environ.get(environment.API_KEY, ""))


def _with_client_key(settings: Settings, key: str) -> Settings:
    """The settings with the key of the client's variable, unless other keys are set."""
    if not key or settings.api_keys or settings.api_keys_file is not None:
        return settings
    if not can_be_sent(key):
        raise SettingsError(
            f"{environment.API_KEY} cannot be sent in a header: it must be printable ASCII without "
            "white space at the ends"
        )
    return settings.model_copy(update={"api_keys": [SecretStr(key)]})


def _explain(item: Mapping[str, Any], known: set[str]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown setting {name}{environment.suggestion(name, known)}"
    if not name:
        return message_of(item)
    value = "" if item["loc"][0] in _SECRETS else f", not {item['input']!r}"
    hint = _HINTS.get(item["type"], "").format(name)
    if hint and name in _OPTION:
        hint = f" (write {_OPTION[name]})"
    return f"{name}: {message_of(item)}{value}{hint}"


def _explain_source(error: ValueError) -> str:
    """pydantic-settings names a field and its own class; the user knows the variable."""
    found = re.fullmatch(r'error parsing value for field "(\w+)" from source "\w+"', str(error))
    if found is None:
        return str(error)
    variable = environment.PREFIX + found[1].upper()
    return f'{variable}: write JSON, for example ["a", "b"] or {{"name": "value"}}'
