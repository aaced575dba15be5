"""Responses that are not 2xx, and failures without a response, as problems and exceptions."""

from __future__ import annotations

import httpx
from pydantic import ValidationError

import capo_wire as wire
from capo_client import errors
from capo_wire.retry_policy import GATEWAY_ERRORS


def invalid_request(detail: str, field: str | None) -> wire.Problem:
    """The problem of a request that was not sent, in the form that the service would return."""
    return wire.Problem(
        type="urn:capo:problem:invalid-request",
        title="The request is not valid",
        status=422,
        detail=detail,
        field=field,
    )


def unreachable(detail: str) -> wire.Problem:
    """The problem of a service that sent no response."""
    return wire.Problem(
        type="urn:capo:problem:unreachable",
        title="The service cannot be reached",
        status=503,
        detail=detail,
    )


def is_from_proxy(response: httpx.Response) -> bool:
    """Whether the response is a proxy's, for a service that it cannot reach (a dead replica)."""
    media_type = response.headers.get("content-type", "").partition(";")[0]
    return response.status_code in GATEWAY_ERRORS and media_type != "application/problem+json"


def refusal(response: httpx.Response) -> errors.CapoError:
    """The exception for a response that is not 2xx; `response` is read."""
    problem = problem_of(response)
    if response.status_code == 503:
        return errors.UnavailableError(f"{response.url}: {problem.detail}", problem)
    return errors.of_problem(problem, response)


def problem_of(response: httpx.Response) -> wire.Problem:
    """The problem in a response that was read; if it has none, one made from its status."""
    try:
        return wire.Problem.model_validate_json(response.content)
    except ValidationError:
        proxy = response.request.extensions.get("capo_proxy")
        route = f" The request went{proxy.way_to(response.url.host)}" if proxy else ""
        reply = f"returned {response.text[:200]!r}; is it a capo service?{route}"
        if response.has_redirect_location:
            reply = f"redirects to {response.headers['location']}: give the URL of that service"
        return wire.Problem(
            type="about:blank",
            title=response.reason_phrase or "Error",
            status=response.status_code,
            detail=f"{response.url} {reply}",
        )
