"""What is set before a service starts, by whatever starts it."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from capo_service.concurrency.process import prepare_process
prepare_process()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
print(soft == hard, os.environ["VLLM_NO_USAGE_STATS"])
"""


def prepared(**variables: str) -> str:
    rest = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        env=rest | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


def test_files_are_unlimited_and_vllm_reports_nothing() -> None:
    assert prepared() == "True 1"


def test_variables_of_the_user_stay() -> None:
    assert prepared(VLLM_NO_USAGE_STATS="0") == "True 0"
