"""HTTP around the rollouts: TLS, trace headers, lines of an answer, what a failure means."""

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
from capo_client._request_state import refusal
from capo_wire.proxies import Proxy

M = TypeVar("M", bound=BaseModel)

CONNECT_SECONDS = 5.0
PROBE_SECONDS = 10.0
# A name that was never resolved is most likely misspelt; one that was comes back, as that of a
# Kubernetes service without a ready pod.
_UNKNOWN_HOST_SECONDS = 5.0


def tls(
    ca: str | os.PathLike[str] | None,
    cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None,
) -> ssl.SSLContext:
    """What servers are verified with, and what they are shown of us.

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
    """How long a request may take; None where something else bounds it."""
    return httpx.Timeout(seconds, connect=CONNECT_SECONDS)


def trace_headers() -> dict[str, str]:
    """`traceparent` (W3C Trace Context) of the caller's span, where it uses OpenTelemetry."""
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.propagate import inject

        inject(headers)
    return headers


async def lines(response: httpx.Response) -> AsyncIterator[bytes]:
    r"""The lines of a streamed answer, cut at \n alone.

    httpx's own `aiter_lines` cuts at U+2028, U+2029 and U+0085 too, which JSON strings may hold.
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
    """The body of an answer, or what its status stands for, raised."""
    if not response.is_success:
        raise refusal(response)
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise errors.InvalidResponseError(
            f"{response.url} answered {response.text[:200]!r}; is it a capo service?"
        ) from error


@dataclass(frozen=True, slots=True)
class Failure:
    """Why no answer came: `detail`, with the URL and what to do.

    `retry_seconds`: how long it is tried again; 0 for what no retry can fix.
    """

    detail: str
    retry_seconds: float = math.inf


def explain(error: Exception, url: str, proxy: Proxy | None, reached: bool) -> Failure:
    """What a failure of the transport means.

    Args:
        error: of httpx, or TimeoutError.
        url: of the service.
        proxy: through which it was asked.
        reached: whether the service, or something at its place, has answered this client before.
    """
    host = httpx.URL(url).host
    way = proxy.way_to(host) if proxy else ""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Failure(
                f"the certificate of {url} is not trusted ({cause.verify_message}): give the "
                f"authority's PEM file as ca or CAPO_CA_FILE{way}",
                0.0,
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            hint = "; does it speak TLS? Else write http://" if "WRONG_VER" in str(cause) else ""
            # Of a service that has answered, it is a connection that broke, as in a restart.
            seconds = math.inf if reached else 0.0
            return Failure(f"no TLS connection with {url}: {cause}{hint}{way}", seconds)
        if isinstance(cause, socket.gaierror):
            named = "the proxy's host" if proxy else f"the host {host!r}"
            return Failure(
                f"{url} cannot be reached: {named} is unknown ({cause.strerror}); correct the URL "
                f"(url, --url or CAPO_URL){way}",
                math.inf if reached else _UNKNOWN_HOST_SECONDS,
            )
    if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
        return Failure(f"{url} cannot be asked: {error}", 0.0)
    codes = [cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno]
    said = os.strerror(codes[-1]) if codes else str(error)
    if isinstance(error, TimeoutError):
        said = "no answer by the deadline"
    if isinstance(error, httpx.ConnectTimeout):
        said = f"no answer within {CONNECT_SECONDS:g} s"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        hint = "" if proxy else "; is the service running there? The URL is url, --url or CAPO_URL"
        return Failure(f"{url} cannot be reached: {said}{hint}{way}")
    return Failure(f"the connection to {url} was lost: {type(error).__name__}: {said}{way}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, the first cause last."""
    yield error
    # An ExceptionGroup has several; httpcore hides the cause, and has it for its argument.
    for each in (*getattr(error, "exceptions", ()), error.__cause__, *error.args):
        if isinstance(each, BaseException):
            yield from _causes(each)
