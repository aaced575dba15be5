"""Where the service is, and which way leads there: URLs, and proxies from the environment."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.request import getproxies

import httpx

from capo_client.errors import ConfigurationError


def parse_urls(named: str | Sequence[str]) -> list[str]:
    """URLs of the service's replicas, each checked, without a slash at the end.

    Args:
        named: one URL, several with commas between, or a list of them.

    Raises:
        ConfigurationError: a URL is invalid, or none is given.
    """
    each = named.split(",") if isinstance(named, str) else list(named)
    urls = [_checked(url.strip()) for url in each if url.strip()]
    if not urls:
        raise ConfigurationError(f"give the URL of a service, not {named!r}")
    return urls


def _checked(url: str) -> str:
    if "://" not in url:
        raise ConfigurationError(f"the URL {url!r} has no scheme: write http://{url}")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigurationError(f"the URL {url!r} cannot be read: {error}") from None
    if parsed.scheme not in ("http", "https"):
        raise ConfigurationError(
            f"the URL {url!r} has the scheme {parsed.scheme}: it must begin with http:// or https://"
        )
    if not parsed.host or any(c.isspace() for c in url):
        raise ConfigurationError(f"the URL {url!r} names no host: write http://HOST:PORT")
    if parsed.port is not None and not 0 < parsed.port < 1 << 16:
        raise ConfigurationError(
            f"the URL {url!r} has the port {parsed.port}: ports are 1 to 65535"
        )
    if parsed.query or parsed.fragment:
        raise ConfigurationError(
            f"the URL {url!r} has a query or a fragment: give the service's own URL, such as "
            f"{parsed.scheme}://{parsed.netloc.decode()}"
        )
    return url.rstrip("/")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. `variable`: of the environment, that names it."""

    url: str
    variable: str

    def __str__(self) -> str:
        parsed = httpx.URL(self.url)  # without its password
        port = "" if parsed.port is None else f":{parsed.port}"
        return f"the proxy {parsed.scheme}://{parsed.host}{port} ({self.variable})"

    def way_to(self, host: str) -> str:
        """For the end of a message."""
        return f" through {self}; to go without it, add {host} to NO_PROXY"


def proxy_for(url: str) -> Proxy | None:
    """The proxy that the environment names for a URL; none for this machine itself.

    HTTP_PROXY, HTTPS_PROXY and ALL_PROXY are heeded; NO_PROXY may hold hosts, domains, addresses,
    networks (`10.0.0.0/8`), each with a port or without, and `*`.

    Raises:
        ConfigurationError: the proxy cannot be used.
    """
    target = httpx.URL(url)
    found = getproxies()
    if _is_here(target.host) or _excepted(target, found.get("no", "")):
        return None
    kind = target.scheme if found.get(target.scheme) else "all"
    if not (named := found.get(kind)):
        return None
    proxy = Proxy(named if "://" in named else f"http://{named}", _variable(kind))
    aside = f"; to reach {target.host} without it, add {target.host} to NO_PROXY"
    try:
        httpx.AsyncHTTPTransport(proxy=proxy.url, verify=False)  # never connects
    except ImportError:
        raise ConfigurationError(
            f"{proxy} is a SOCKS proxy, which needs: pip install 'httpx[socks]'{aside}"
        ) from None
    except (ValueError, httpx.InvalidURL) as error:
        raise ConfigurationError(
            f"{proxy.variable} names a proxy that cannot be used: {error}{aside}"
        ) from None
    return proxy


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


def _excepted(target: httpx.URL, no_proxy: str) -> bool:
    return any(_covers(each.strip().lower(), target) for each in no_proxy.split(","))


def _covers(entry: str, target: httpx.URL) -> bool:
    """Whether an entry of NO_PROXY covers a URL."""
    if entry == "*":
        return True
    scheme, _, entry = entry.rpartition("://")
    if not entry or (scheme and scheme != target.scheme):
        return False
    address = _address(target.host)
    if address is not None and "/" in entry:
        with suppress(ValueError):
            return address in ipaddress.ip_network(entry, strict=False)
    name, _, port = entry.rpartition(":")
    if not (name and port.isdigit()):
        name, port = entry, ""
    if _address(entry) is not None:
        port = ""  # the last group of an IPv6 address is no port
    default = 443 if target.scheme == "https" else 80
    if port and int(port) != (target.port or default):
        return False
    if address is not None:
        return address == (_address(entry) or _address(name))
    name = name.removeprefix("*").removeprefix(".")
    return target.host == name or target.host.endswith(f".{name}")
