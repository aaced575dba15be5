"""What vLLM logs, in the service's format: all of its start, and later only warnings.

vLLM logs in several processes. Each reads the same configuration, from a file that
`observability.logs` writes, and this module is imported in each.
"""

from __future__ import annotations

import logging

_LONGEST = 500  # characters; vLLM's line with its whole configuration has thousands


class StartUpFilter(logging.Filter):
    """Drops what is below a warning unless the engine is loading, or stops."""

    loading = True  # in this process

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            return True
        return StartUpFilter.loading and not str(record.msg).startswith("[shutdown]")


class TextFormatter(logging.Formatter):
    """One line for each record, with the name of vLLM's process unless it is the service's."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s vLLM%(process_label)s: %(one_line)s")

    def format(self, record: logging.LogRecord) -> str:
        name = getattr(record, "vllm_process_name", record.processName)
        record.process_label = "" if name == "MainProcess" else f" {name}"
        text = " ".join(record.getMessage().split())
        record.one_line = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        return super().format(record)
