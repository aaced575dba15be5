"""URLs of services, and the proxies for them."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from capo_client.errors import ConfigurationError
from capo_wire import proxies
from capo_wire.proxies import Proxy


def parse_urls(value: str | Sequence[str]) -> list[str]:
    """The URLs of the service's replicas, validated, without a trailing slash.

    Args:
        value: one URL, several separated by commas, or a list of them.

    Raises:
        ConfigurationError: a URL is invalid, or there is none.
    """
    parts = value.split(",") if isinstance(value, str) else list(value)
    urls = [_checked(url.strip()) for url in parts if url.strip()]
    if not urls:
        raise ConfigurationError(f"give the URL of a service, not {value!r}")
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


def proxy_for(url: str) -> Proxy | None:
    """The proxy that environment variables name, by the rules of `capo_wire.proxies`.

    Raises:
        ConfigurationError: httpx cannot use the proxy.
    """
    proxy = proxies.proxy_for(url)
    if proxy is not None:
        try:
            httpx.AsyncHTTPTransport(proxy=proxy.url, verify=False)  # never connects
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ConfigurationError(proxy.unusable(url, error)) from None
    return proxy
