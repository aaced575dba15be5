"""HTTP details: TLS, timeouts, trace headers, lines of a response, error messages."""

from __future__ import annotations

import math
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from capo_client import errors
from capo_client._problems import refusal
from capo_wire.proxies import Proxy

M = TypeVar("M", bound=BaseModel)

CONNECT_SECONDS = 5.0
PROBE_SECONDS = 10.0
# A host name that never resolved is probably misspelt. One that did will resolve again: Kubernetes
# removes the name of a service without a ready pod.
_UNKNOWN_HOST_SECONDS = 5.0


def tls(
    ca: str | os.PathLike[str] | None,
    cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None,
) -> ssl.SSLContext:
    """A context that verifies servers by `ca` and presents the client certificate `cert`.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    if ca is None and cert is None:
        return httpx.create_ssl_context()
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(*cert)
    except (OSError, ssl.SSLError) as error:
        raise errors.ConfigurationError(
            f"ca {ca} or cert {cert} cannot be used: {error}"
        ) from error
    return context


def request_timeout(seconds: float | None) -> httpx.Timeout:
    """Timeouts of a request; None if the caller sets its own."""
    return httpx.Timeout(seconds, connect=CONNECT_SECONDS)


def trace_headers() -> dict[str, str]:
    """`traceparent` (W3C Trace Context) of the caller's span, if it uses OpenTelemetry."""
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.propagate import inject

        inject(headers)
    return headers


async def lines(response: httpx.Response) -> AsyncIterator[bytes]:
    r"""The lines of a streamed response, split at \n alone.

    httpx's `aiter_lines` splits at U+2028, U+2029 and U+0085 too, which JSON strings may contain.
    """
    parts: list[bytes] = []
    async for data in response.aiter_bytes():
        *whole, rest = data.split(b"\n")
        for line in whole:
            yield b"".join([*parts, line])
            parts.clear()
        parts.append(rest)
    yield b"".join(parts)


def read(response: httpx.Response, model: type[M]) -> M:
    """The body of a response.

    Raises:
        CapoError: by the status, where it is not 2xx.
        InvalidResponseError: the body is not of `model`.
    """
    if not response.is_success:
        raise refusal(response)
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise errors.InvalidResponseError(
            f"{response.url} returned {response.text[:200]!r}; is it a capo service?"
        ) from error


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there was no response.

    Attributes:
        detail: the reason, with the URL and what to do.
        retry_seconds: for how long this is retried; 0 where a retry cannot help.
    """

    detail: str
    retry_seconds: float = math.inf


def explain(error: Exception, url: str, proxy: Proxy | None, reached: bool) -> Failure:
    """A transport failure as an error message.

    Args:
        error: an exception of httpx, or a TimeoutError.
        url: the service's URL.
        proxy: the proxy of the request, if any.
        reached: whether a server at the URL has responded to this client before.
    """
    host = httpx.URL(url).host
    route = proxy.way_to(host) if proxy else ""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Failure(
                f"the certificate of {url} is not trusted ({cause.verify_message}): give the "
                f"authority's PEM file as ca or CAPO_CA_FILE{route}",
                0.0,
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            hint = "; if it does not use TLS, write http://" if "WRONG_VER" in str(cause) else ""
            # If the service has responded before, a connection broke, as in a restart.
            seconds = math.inf if reached else 0.0
            return Failure(f"no TLS connection with {url}: {cause}{hint}{route}", seconds)
        if isinstance(cause, socket.gaierror):
            name = "the proxy's host" if proxy else f"the host {host!r}"
            return Failure(
                f"{url} cannot be reached: {name} is unknown ({cause.strerror}); correct the URL "
                f"(url, --url or CAPO_URL){route}",
                math.inf if reached else _UNKNOWN_HOST_SECONDS,
            )
    if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
        return Failure(f"{url} cannot be requested: {error}", 0.0)
    codes = [cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno]
    reason = os.strerror(codes[-1]) if codes else str(error)
    if isinstance(error, TimeoutError):
        reason = "no response before the deadline"
    if isinstance(error, httpx.ConnectTimeout):
        reason = f"no response within {CONNECT_SECONDS:g} s"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        hint = "" if proxy else "; is the service running? Set its URL by url, --url or CAPO_URL"
        return Failure(f"{url} cannot be reached: {reason}{hint}{route}")
    return Failure(f"the connection to {url} was lost: {type(error).__name__}: {reason}{route}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the first cause last."""
    yield error
    # An ExceptionGroup has several; httpcore drops the cause, and keeps it as an argument.
    for cause in (*getattr(error, "exceptions", ()), error.__cause__, *error.args):
        if isinstance(cause, BaseException):
            yield from _causes(cause)
