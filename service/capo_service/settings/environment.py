"""Environment variables with the prefix CAPO_: settings, and variables of other programs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

PREFIX = "CAPO_"
API_KEY = "CAPO_API_KEY"
# Variables of the client, the command line, the adapters and the developers' tools.
NOT_SETTINGS = {
    API_KEY,
    "CAPO_ADAPTER_ENVS",
    "CAPO_BROWSER",
    "CAPO_CA_FILE",
    "CAPO_CERT_FILE",
    "CAPO_CONFIG",
    "CAPO_KEY_FILE",
    "CAPO_OPTIONS",
    "CAPO_ROLLOUTS_FILE",
    "CAPO_TEST_MODEL",
    "CAPO_URL",
}
# What Kubernetes sets in every pod of a namespace for a Service called `capo` or `capo-...`.
_LINK = re.compile(
    r"CAPO_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_LINKED_PORT = re.compile(r"CAPO_(\w+_)?PORT")
_LINKED_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def is_service_link(variable: str, value: str | None) -> bool:
    """Whether Kubernetes set it: CAPO_SERVICE_HOST, or CAPO_PORT=tcp://10.0.0.1:8000."""
    if _LINK.fullmatch(variable):
        return True
    return bool(_LINKED_PORT.fullmatch(variable) and _LINKED_ADDRESS.match(value or ""))


def unknown_variable(environment: Mapping[str, str], settings: Iterable[str]) -> str | None:
    """The error message for the first variable that is not known; None if all are.

    Args:
        environment: variables and their values.
        settings: names of settings, as `max_steps`.
    """
    names = {PREFIX + name.upper() for name in settings} | NOT_SETTINGS
    for name, value in sorted(environment.items()):
        if name.startswith(PREFIX) and name not in names and not is_service_link(name, value):
            return (
                f"unknown setting {name}{suggestion(name, names)}: variables that begin with "
                f"{PREFIX} are settings"
            )
    return None


def suggestion(name: str, known: Iterable[str]) -> str:
    """` (did you mean ...?)` with the most similar known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
