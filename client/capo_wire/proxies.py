"""The proxy that environment variables name for a URL.

Client and service use these rules instead of httpx's, which do not support networks in NO_PROXY and
would send requests for this machine to a proxy.
"""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. `variable`: the environment variable that names it."""

    url: str
    variable: str

    def __str__(self) -> str:
        parsed = urlsplit(self.url)
        address = parsed.netloc.rpartition("@")[2]  # without its password
        return f"the proxy {parsed.scheme}://{address} ({self.variable})"

    def way_to(self, host: str) -> str:
        """The end of a message about a request to `host` that went through this proxy."""
        return f" through {self}; to go without it, add {host} to NO_PROXY"

    def unusable(self, url: str, error: Exception) -> str:
        """The error message for a proxy that an HTTP client refuses.

        Args:
            url: the URL to be reached through it.
            error: the HTTP client's error; ImportError if it lacks SOCKS support.
        """
        host = urlsplit(url).hostname
        direct = f"; to reach {host} without it, add {host} to NO_PROXY"
        if isinstance(error, ImportError):
            return f"{self} is a SOCKS proxy, which needs: pip install 'httpx[socks]'{direct}"
        return f"{self.variable} names a proxy that cannot be used: {error}{direct}"


def proxy_for(url: str) -> Proxy | None:
    """The proxy that the environment names for a URL; None for this machine itself.

    HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY are read. NO_PROXY may contain hosts, domains,
    addresses and networks (`10.0.0.0/8`), with or without a port, and `*`. Whether the HTTP client
    supports the proxy is not checked.

    Raises:
        ValueError: the URL cannot be parsed.
    """
    target = urlsplit(url)
    found = getproxies()
    if _is_here(target.hostname or "") or _excepted(target, found.get("no", "")):
        return None
    kind = target.scheme if found.get(target.scheme) else "all"
    if not (named := found.get(kind)):
        return None
    return Proxy(named if "://" in named else f"http://{named}", _variable(kind))


def _variable(kind: str) -> str:
    for name in (f"{kind}_proxy", f"{kind}_proxy".upper()):
        if os.environ.get(name):
            return name
    return "of the system's settings"


def _is_here(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _excepted(target: SplitResult, no_proxy: str) -> bool:
    return any(_covers(entry.strip().lower(), target) for entry in no_proxy.split(","))


def _covers(entry: str, target: SplitResult) -> bool:
    """Whether an entry of NO_PROXY covers a URL."""
    if entry == "*":
        return True
    scheme, _, entry = entry.rpartition("://")
    if not entry or (scheme and scheme != target.scheme):
        return False
    host = target.hostname or ""
    address = _address(host)
    if address is not None and "/" in entry:
        with suppress(ValueError):
            return address in ipaddress.ip_network(entry, strict=False)
    name, _, port = entry.rpartition(":")
    if not (name and port.isdigit()):
        name, port = entry, ""
    if _address(entry) is not None:
        port = ""  # the last group of an IPv6 address is not a port
    default = 443 if target.scheme == "https" else 80
    if port and int(port) != (target.port or default):
        return False
    if address is not None:
        return address == (_address(entry) or _address(name))
    name = name.removeprefix("*").removeprefix(".")
    return host == name or host.endswith(f".{name}")
