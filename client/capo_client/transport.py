"""What is said on the wire beside the rollouts: TLS, trace headers, answers that are no results."""

from __future__ import annotations

import os
import ssl
import sys
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from capo_client import errors
from capo_client.chunk import refusal

M = TypeVar("M", bound=BaseModel)


def tls(
    ca: str | os.PathLike[str] | None,
    cert: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None,
) -> ssl.SSLContext | bool:
    """What httpx verifies servers with, and shows them of us.

    Raises:
        ValueError: a file cannot be used.
    """
    ca = ca or os.environ.get("CAPO_CA_FILE")
    if cert is None and (file := os.environ.get("CAPO_CERT_FILE")):
        cert = file, os.environ.get("CAPO_KEY_FILE") or file
    if ca is None and cert is None:
        return True
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(*cert)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"ca {ca} or cert {cert} cannot be used: {error}") from error
    return context


def trace_headers() -> dict[str, str]:
    """`traceparent` (W3C Trace Context) of the caller's span, where it uses OpenTelemetry."""
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.propagate import inject

        inject(headers)
    return headers


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
