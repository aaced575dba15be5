"""A few seconds of each fuzzer, so that none of them is broken; `make fuzz` runs them for longer."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "fuzz" / "run.py"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is for Linux on x86_64"
)


@pytest.mark.parametrize(
    "name",
    [
        "verdict",
        "form",
        "segment",
        "merge",
        "align",
        "suspect",
        "code",
        "calculate",
        "body",
        "mask",
        "turns",
    ],
)
def test_no_input_breaks_a_promise(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(RUN), "2", name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [inputs] = re.findall(rf"^{name}: ([\d,]+) inputs, fine", done.stdout, re.MULTILINE)
    assert int(inputs.replace(",", "")) > 10
