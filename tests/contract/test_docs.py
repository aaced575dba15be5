"""What the pages for users say to run, run against a real service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit_service import Service

ROOT = Path(__file__).resolve().parents[2]
RUN = {
    "sh": ["bash", "-ceu"],
    "python": [sys.executable, "-c"],
    "js": ["node", "--input-type=module", "-e"],
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    return [(m[1], m[2]) for m in BLOCK.finditer((ROOT / "docs" / page).read_text("utf-8"))]


@pytest.mark.parametrize(("language", "text"), blocks("any-framework.md"))
def test_every_block_of_the_page_for_any_framework_runs(
    service: Service, language: str, text: str
) -> None:
    if language == "js" and not shutil.which("node"):
        pytest.skip("no node on this machine")
    done = subprocess.run(
        [*RUN[language], text], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"CAPO_URL": service.url},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if "token_rewards" in text and language != "sh":
        assert done.stdout.split() == ["[2.0,", "2.0,", "2.0,", "2.0]"] or done.stdout.split() == [
            "[2,2,2,2]"
        ]
    elif language == "sh":
        assert '"token_rewards":[2.0,2.0,2.0,2.0]' in done.stdout


def test_pages_name_files_that_are_there() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
