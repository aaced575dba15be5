"""Errors as RFC 9457 problem details: one place for every type, title and status."""

from __future__ import annotations

import errno
import logging
import traceback
from typing import Any

from fastapi.responses import Response

import capo_wire as wire
from capo_service.core.errors import InputError
from capo_service.engine.base import EngineBusyError, EngineDeadError
from capo_service.observability.logs import rollouts as rollout_log
from capo_service.pipeline.errors import BatchTooLargeError, NotReadyError, NoValidCritiqueError
from capo_service.scheduling.admission import DrainingError, QueueFullError
from capo_service.scheduling.quota import QuotaError, QuotaTooSmallError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_RETRY_SECONDS = 5  # where no better estimate is known

# name -> (status, title)
TYPES = {
    "invalid-request": (422, "The request is not valid"),
    "invalid-rollout": (422, "The rollout is not valid"),
    "no-outcome": (422, "The rollout has no outcome"),
    "unreadable-reference": (422, "The reference contains no answer"),
    "unknown-tokenizer": (422, "The tokenizer is not served"),
    "tokens-disagree": (422, "Text and token ids disagree"),
    "context-exceeded": (422, "The rollout exceeds the judge's context"),
    "too-large": (413, "The rollout or request is too large"),
    "not-json": (400, "The body is not JSON"),
    "wrong-media-type": (415, "The content type is not JSON"),
    "wrong-encoding": (415, "The content encoding is not supported"),
    "unauthorized": (401, "A valid API key is required"),
    "forbidden": (403, "The API key lacks the required role"),
    "not-found": (404, "The path does not exist"),
    "method-not-allowed": (405, "The path does not support this method"),
    "request-timeout": (408, "The request body was not received in time"),
    "client-closed": (499, "The client closed the connection"),  # nginx's status; seen in logs
    "queue-full": (429, "The queue is full"),
    "quota-exceeded": (429, "The API key's quota is used up"),
    "engine-busy": (429, "The judge is busy"),
    "no-valid-critique": (502, "No critique could be parsed"),
    "not-ready": (503, "The service is not ready"),
    "draining": (503, "The service is shutting down"),
    "engine-dead": (503, "The judge's engine is dead"),
    "deadline": (504, "The deadline has passed"),
    "internal": (500, "Internal error"),
}


# Errors of the pipeline for a whole request; `from_error` makes problems of them.
DOMAIN_ERRORS = (
    BatchTooLargeError,
    DrainingError,
    InputError,
    NotReadyError,
    QueueFullError,
    QuotaError,
    QuotaTooSmallError,
)

# Errors whose message is the detail -> the problem's name, and the field at fault.
_BY_MESSAGE: dict[type[Exception], tuple[str, str | None]] = {
    BatchTooLargeError: ("too-large", "rollouts"),
    EngineBusyError: ("engine-busy", None),
    EngineDeadError: ("engine-dead", None),
    NoValidCritiqueError: ("no-valid-critique", None),
    QueueFullError: ("queue-full", None),
    QuotaError: ("quota-exceeded", None),
    QuotaTooSmallError: ("too-large", "rollouts"),
}


class ProblemError(Exception):
    """Ends a request with a problem as its response."""

    def __init__(self, problem: wire.Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = headers or {}


def make(name: str, detail: str, field: str | None = None) -> wire.Problem:
    """A problem of one of `TYPES`."""
    status, title = TYPES[name]
    return wire.Problem(
        type=f"urn:capo:problem:{name}", title=title, status=status, detail=detail, field=field
    )


def error(name: str, detail: str, field: str | None = None, **headers: str) -> ProblemError:
    """A problem of one of `TYPES`, to be raised."""
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    return from_problem(make(name, detail, field), given)


def from_problem(problem: wire.Problem, headers: dict[str, str] | None = None) -> ProblemError:
    """A problem to be raised, with the headers that its status requires."""
    headers = dict(headers or {})
    if problem.status in (429, 503):
        headers.setdefault("Retry-After", str(_RETRY_SECONDS))
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return ProblemError(problem, headers)


def from_error(error: Exception) -> ProblemError:
    """The response to a request that failed with an error, with Retry-After if known."""
    wait = getattr(error, "retry_after", None)
    return from_problem(explain(error), {"Retry-After": str(wait)} if wait else {})


def explain(cause: BaseException) -> wire.Problem:
    """The problem behind the error that stopped a request or a rollout."""
    for kind, (name, field) in _BY_MESSAGE.items():
        if isinstance(cause, kind):
            return make(name, str(cause), field)
    match cause:
        case InputError():
            return make(cause.problem, cause.detail, cause.field)
        case NotReadyError():
            return make(cause.reason, cause.detail)
        case DrainingError():
            return make("draining", "the service is shutting down and accepts no new work")
        case TimeoutError():
            return make("deadline", "deadline_ms passed before the rollout was judged")
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            log.error("no file descriptor left; raise the service's limit (ulimit -n)")
            return make("not-ready", "the service has no file descriptor left; try again")
    # The message of an exception may quote the rollout; its traceback does not.
    trace = "".join(traceback.format_tb(cause.__traceback__))
    log.error("unexpected %s\n%s", type(cause).__name__, trace)
    rollout_log.error("unexpected %s: %s", type(cause).__name__, cause)
    return make(
        "internal", f"unexpected {type(cause).__name__}; the traceback is in the service's log"
    )


def response(problem: wire.Problem, headers: dict[str, str] | None = None) -> Response:
    """A problem as the whole response."""
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def openapi_responses() -> dict[int | str, dict[str, Any]]:
    """The error responses of `POST /credit`, for its OpenAPI description."""
    titles: dict[int, list[str]] = {}
    for status, title in TYPES.values():
        titles.setdefault(status, []).append(title)
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": "; ".join(names), "content": {MEDIA_TYPE: {"schema": schema}}}
        for status, names in sorted(titles.items())
        if status not in (404, 405, 499)
    }
