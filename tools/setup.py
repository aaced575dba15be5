"""Create .venv from the pinned lists and this project; repeated only when one of them changed.

Needs Python 3.11 with pip, and nothing else. Environment:
    TORCH_INDEX_URL   where to find torch's CPU build if pip's own index has none
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed"
LISTS = [
    ROOT / "requirements" / name for name in ("cpu.txt", "trainer.txt", "dev.txt", "deploy.txt")
]
TORCH_INDEX_URL = os.environ.get("TORCH_INDEX_URL", "https://download.pytorch.org/whl/cpu")
LISTS_ARE_FOR = (3, 11)
LOWEST = (3, 11, 5)  # of pymdown-extensions


def main() -> None:
    mark = fingerprint()
    if STAMP.exists() and STAMP.read_text() == mark:
        return
    check_machine()
    STAMP.unlink(missing_ok=True)
    print(f"setup: making {VENV.name} (two to four minutes)", flush=True)
    venv.create(VENV, with_pip=True, clear=True)
    install_torch()
    pip(*(argument for path in LISTS for argument in ("-r", str(path))))
    pip("--no-build-isolation", "-e", str(ROOT))
    STAMP.write_text(mark)
    print("setup: done", flush=True)


def fingerprint() -> str:
    """Everything that decides what is installed."""
    digest = hashlib.sha256(f"{sys.version} {ROOT}".encode())
    for path in (*LISTS, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    packages = sorted(str(p.parent) for p in ROOT.glob("*/capo_*/__init__.py"))
    return digest.hexdigest() + "".join(packages)


def check_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Stop with the fix where this machine cannot run the pinned lists."""
    version = sys.version_info[:3]
    if version[:2] != LISTS_ARE_FOR or version < LOWEST:
        stop(
            f"this is Python {'.'.join(map(str, version))}, and the pinned lists need 3.11.5 or a "
            "later 3.11. "
            "Fix: make setup PYTHON=python3.11, or pip install '.[service,cpu]' without the lists"
        )
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        stop(
            f"the pinned lists are for Linux on x86_64, and this is {platform.system()} on "
            f"{platform.machine()}. Fix: pip install '.[service]' in an environment of your own "
            "and use `capo serve --engine openai --upstream URL`"
        )
    if cpuinfo.exists() and "avx2" not in cpuinfo.read_text().split():
        stop(
            "this processor has no AVX2, which vLLM's CPU build needs. Fix: run the judge on "
            "another machine and use `capo serve --engine openai --upstream URL`"
        )


def install_torch() -> None:
    """torch's CPU build, from pip's own index or else from PyTorch's."""
    entries = re.split(r"^(?=\S)", LISTS[0].read_text(), flags=re.MULTILINE)
    entry = next(entry for entry in entries if entry.startswith("torch=="))
    pin = entry.split()[0]
    # In a file, as hashes cannot be given on pip's command line.
    path = VENV / "torch.txt"
    path.write_text(entry)
    if pip("-r", str(path), check=False):
        return
    print(
        f"setup: pip's index has no {pin}; trying PyTorch's CPU index, {TORCH_INDEX_URL}",
        flush=True,
    )
    if not pip("-r", str(path), "--index-url", TORCH_INDEX_URL, check=False):
        stop(
            f"{pin} was found neither in pip's index nor at {TORCH_INDEX_URL}. Fix: name an index "
            "that has it by TORCH_INDEX_URL=..., or let pip find the wheel by PIP_FIND_LINKS=FOLDER"
        )


def pip(*arguments: str, check: bool = True) -> bool:
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-deps"]
    command += ["--quiet", "--disable-pip-version-check", *arguments]
    # pip mentions every index folder that lacks a package; only what stops it is worth reading.
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode and check:
        print(result.stderr, file=sys.stderr)
        stop(f"pip could not install {' '.join(arguments)}; its own words are above")
    return result.returncode == 0


def stop(reason: str) -> None:
    sys.exit(f"setup: {reason}")


if __name__ == "__main__":
    main()
