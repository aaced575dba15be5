"""What pyproject.toml requires without an extra is enough for what the first pages show."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kit_stub import Answer, credited, stub

ROOT = Path(__file__).resolve().parents[2]

# argv: top-level modules that are as if they were not installed, then the code to run.
ALONE = """
import json, sys

absent = set(json.loads(sys.argv[1]))

class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Only())
exec(sys.argv[2])
"""


def required() -> set[str]:
    """Names of the distributions that `pip install .` brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    waiting = [(Requirement(each), "") for each in project["dependencies"]]
    while waiting:
        wanted, extra = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": extra})):
            continue
        found.add(name)
        for each in metadata.requires(wanted.name) or ():
            waiting += [(Requirement(each), e) for e in wanted.extras or {""}]
    return found


def run(code: str) -> subprocess.CompletedProcess[str]:
    kept = required() | {"capo-credit"}
    absent = [
        module
        for module, names in metadata.packages_distributions().items()
        if not any(canonicalize_name(name) in kept for name in names)
    ]
    arguments = [json.dumps([*absent, "capo_service", "capo_trainer"]), code]
    return subprocess.run(
        [sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True, cwd=ROOT
    )


def answer(method: str, path: str, body: bytes) -> Answer:
    return credited(body)


def test_the_first_examples_of_the_client_run_without_an_extra() -> None:
    pages = (ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "any-framework.md")
    text = "".join(page.read_text("utf-8") for page in pages)
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    ours = [each for each in blocks if "capo_client import" in each and "adapters" not in each]
    assert ours
    with stub(answer) as service:
        for block in ours:
            done = run(block.replace("http://127.0.0.1:8000", service.url))
            assert done.returncode == 0, done.stderr


def test_arrays_say_what_to_install() -> None:
    said = run("from capo_client import padded_token_rewards as p\np([])").stderr
    assert "pip install numpy, or use kind='torch'" in said


def test_every_module_of_the_client_imports_without_an_extra() -> None:
    folder = ROOT / "client" / "capo_client"
    names = sorted(
        ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        for path in folder.rglob("*.py")
        if path.parent.name != "adapters" and path.name not in ("__init__.py", "__main__.py")
    )
    done = run("\n".join(f"import {name}" for name in names))
    assert done.returncode == 0, done.stderr


def test_what_is_not_required_is_seen_to_be_missing() -> None:
    assert "No module named 'torch'" in run("import torch").stderr
