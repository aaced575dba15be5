"""Logs: text or JSON lines with request ids; text of rollouts only if `log_rollouts` is set."""

from __future__ import annotations

import logging
import re
import secrets
from contextvars import ContextVar

from opentelemetry import trace

from capo_service.settings import Settings

# Messages that may hold text of a rollout; silent unless `log_rollouts` is set.
rollouts = logging.getLogger("capo_service.rollouts")

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_VALID_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TEXT = "%(asctime)s %(levelname)-7s %(message)s%(origin)s"


def begin_request(given: str | None) -> str:
    """Set the id of the request that this task serves: the caller's where valid, else a new one."""
    name = given if given and _VALID_ID.fullmatch(given) else secrets.token_hex(8)
    _request_id.set(name)
    return name


def set_up(settings: Settings) -> None:
    """Log to standard error, in the format that the settings name."""
    handler = logging.StreamHandler()
    handler.addFilter(_add_context)
    if settings.log_format == "json":
        from pythonjsonlogger.json import JsonFormatter

        renamed = {"levelname": "level", "name": "logger"}
        handler.setFormatter(
            JsonFormatter(
                "{levelname}{name}{message}{request_id}{trace_id}",
                style="{",
                rename_fields=renamed,
                timestamp=True,
            )
        )
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
        handler.addFilter(_add_origin)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    rollouts.setLevel(logging.INFO if settings.log_rollouts else logging.CRITICAL + 1)


def _add_context(record: logging.LogRecord) -> bool:
    context = trace.get_current_span().get_span_context()
    trace_id = f"{context.trace_id:032x}" if context.is_valid else None
    record.__dict__.pop("color_message", None)  # uvicorn's, for terminals
    record.__dict__ |= {"request_id": _request_id.get(), "trace_id": trace_id}
    return True


def _add_origin(record: logging.LogRecord) -> bool:
    name = _request_id.get()
    record.__dict__ |= {"origin": f" [{name}]" if name else ""}
    return True
