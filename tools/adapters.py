"""Test each adapter with its framework, in an environment of its own, against a real service.

    .venv/bin/python tools/adapters.py [NAME ...]

Environments lie in build/adapters (or CAPO_ADAPTER_ENVS), made of
requirements/adapters/NAME.txt, and anew when that changes. The service is `capo serve` with the
embedded model.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

from capo_service.engine import embedded
from capo_testbed.serving import serving

ROOT = Path(__file__).resolve().parent.parent
LISTS = ROOT / "requirements" / "adapters"
ENVS = Path(os.environ.get("CAPO_ADAPTER_ENVS") or ROOT / "build" / "adapters")


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in LISTS.glob("*.txt"))
    for name in names:
        make(name)
    ENVS.mkdir(parents=True, exist_ok=True)
    settings = {"CAPO_CRITIQUE_STYLE": "verdict", "OMP_NUM_THREADS": "2"}
    with serving("embedded", ENVS / "service.log", **settings) as url:
        failed = [name for name in names if not passes(name, url)]
    if failed:
        sys.exit(f"adapters: tests failed in {', '.join(failed)}")


def make(name: str) -> None:
    folder = ENVS / name
    lines = (LISTS / f"{name}.txt").read_text().splitlines()
    pins = sorted(line for line in lines if not line.startswith("#"))
    packages = sorted(str(path.parent) for path in ROOT.glob("*/capo_*/__init__.py"))
    project = (ROOT / "pyproject.toml").read_text()

    def install(what: str, mark: str, *arguments: str) -> None:
        """Once for each mark."""
        stamp = folder / what
        digest = hashlib.sha256(mark.encode()).hexdigest()
        if stamp.exists() and stamp.read_text() == digest:
            return
        print(f"adapters: installing {what} in {name}'s environment", flush=True)
        if what == "pins":
            venv.create(folder, with_pip=True, clear=True)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-deps"]
        command += ["--quiet", "--disable-pip-version-check", *arguments]
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if result.returncode:
            sys.exit(f"adapters: pip could not make {name}'s environment:\n{result.stderr}")
        stamp.write_text(digest)

    install("pins", f"{pins}", "-r", str(LISTS / f"{name}.txt"))
    install("project", f"{packages} {project}", "--no-build-isolation", "-e", str(ROOT))


def passes(name: str, url: str) -> bool:
    tests = ROOT / "tests" / "adapters"
    files = map(str, sorted(tests.glob(f"test_{name}*.py")))
    command = [str(ENVS / name / "bin" / "python"), "-m", "pytest", "-c", str(tests / "pytest.ini"),
               "--rootdir", str(tests), *files]  # fmt: skip
    settings = {
        "CAPO_URL": url, "CAPO_TEST_MODEL": str(embedded.folder()), "HF_HUB_OFFLINE": "1",
        # More threads than cores that are free wait for one another.
        "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled",
        # Unset, Ray writes a token into the home, and every later cluster there asks for it.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip
    print(f"adapters: {name}", flush=True)
    return subprocess.run(command, env=os.environ | settings, check=False).returncode == 0


if __name__ == "__main__":
    main()
