"""Logs: text or JSON lines with request ids; text of rollouts only if `log_rollouts` is set."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from opentelemetry import trace

from capo_service.settings import Settings
from capo_service.settings.judge import BUILT_IN_JUDGES

log = logging.getLogger(__name__)

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
        handler.setFormatter(json_formatter())
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
        handler.addFilter(_add_origin)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    rollouts.setLevel(logging.INFO if settings.log_rollouts else logging.CRITICAL + 1)
    _set_up_vllm(settings)


def json_formatter() -> logging.Formatter:
    """Formats records as JSON lines."""
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(
        "{levelname}{name}{message}{request_id}{trace_id}",
        style="{",
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp=True,
    )


def _set_up_vllm(settings: Settings) -> None:
    """Have vLLM, which is not imported yet, log as we do, in all of its processes.

    It reads its logging from variables. Those that the user has set are not changed.
    """
    global _vllm_folder
    chosen = [name for name in os.environ if name.startswith("VLLM_") and "LOGGING" in name]
    if chosen and _vllm_folder is None:
        return
    if _on_several_machines(settings.engine_args):  # which do not have the file
        os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"
        return
    config = _vllm_config(settings)
    logging.getLogger("vllm").setLevel(config["loggers"]["vllm"]["level"])  # of its first lines
    try:
        _vllm_folder = _vllm_folder or TemporaryDirectory(prefix="capo-log-")
        file = Path(_vllm_folder.name) / "vllm.json"
        file.write_text(json.dumps(config), "utf-8")
    except OSError as error:
        log.warning("vLLM logs in its own format, because a file cannot be written: %s", error)
    else:
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(file)


_vllm_folder: TemporaryDirectory[str] | None = None  # removed when the process ends


def _on_several_machines(engine_args: Mapping[str, Any]) -> bool:
    return "ray" in engine_args.values() or "ray" in sys.modules


def _vllm_config(settings: Settings) -> dict[str, Any]:
    """For logging.config.dictConfig."""
    text = "capo_service.engine.vllm_log.TextFormatter"
    formatter = f"{__name__}.json_formatter" if settings.log_format == "json" else text
    level = settings.log_level.upper()
    if settings.log_level == "debug":
        level = "INFO"
    elif settings.log_level == "info" and settings.model in BUILT_IN_JUDGES:
        level = "ERROR"  # vLLM would warn of how we run such small models
    handler = {
        "class": "logging.StreamHandler",
        "stream": "ext://sys.stderr",
        "formatter": "capo",
        "filters": ["start"],
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"start": {"()": "capo_service.engine.vllm_log.StartUpFilter"}},
        "formatters": {"capo": {"()": formatter}},
        "handlers": {"capo": handler},
        "loggers": {"vllm": {"handlers": ["capo"], "level": level, "propagate": False}},
    }


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
