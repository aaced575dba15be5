"""Prepares a process to serve, under `capo serve` or Ray Serve."""

from __future__ import annotations

import os
import resource


def prepare_process() -> None:
    """Raise the limit of open files to the hard limit, and turn off vLLM's usage statistics.

    Environment variables that are already set are not changed.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # vLLM sends usage statistics by default, which may be confidential.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
