"""Create .venv from the pinned lists and this project; repeated only when one of them changed.

    python tools/setup.py          what development and the tests need
    python tools/setup.py demo     what `make demo` and `make serve` need; a part of the above

Needs Python 3.11 with pip, and nothing else. Environment:
    TORCH_INDEX_URL   where to find torch's CPU build if pip's own index has none
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed"
# The demo's list holds a part of cpu.txt, with the same pins.
LEVELS = {
    "demo": ("demo.txt",),
    "all": ("cpu.txt", "trainer.txt", "dev.txt", "deploy.txt"),
}
SIZES = {"demo": "1.6 GB", "all": "4 GB"}
TORCH_INDEX_URL = os.environ.get("TORCH_INDEX_URL", "https://download.pytorch.org/whl/cpu")
LISTS_ARE_FOR = (3, 11)
LOWEST = (3, 11, 5)  # of pymdown-extensions
WITHOUT_VLLM = (
    "pip install '.[service]' in an environment of your own, and `capo serve --engine symbolic` "
    "(checks arithmetic, no model) or `capo serve --engine openai --base-url URL` (a judge "
    "elsewhere)"
)


def main(level: str) -> None:
    wanted = {"demo": fingerprint("demo"), "all": fingerprint("all")}
    done = read_stamp()
    current = [name for name in wanted if done.get(name) == wanted[name]]
    if level in current or "all" in current:
        return
    check_machine()
    if done == {"demo": wanted["demo"]}:
        say(f"adding what development and the tests need to {VENV.name}")
        install("all", project=False)  # which is there
    else:
        make_environment()
        install(level)
    write_stamp({"demo": wanted["demo"]} if level == "demo" else wanted)
    say("done")


def fingerprint(level: str) -> str:
    """Everything that decides what is installed."""
    digest = hashlib.sha256(f"{sys.version} {ROOT}".encode())
    for path in (*lists(level), ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    packages = sorted(str(p.parent) for p in ROOT.glob("*/capo_*/__init__.py"))
    digest.update("".join(packages).encode())
    return digest.hexdigest()


def lists(level: str) -> list[Path]:
    return [ROOT / "requirements" / name for name in LEVELS[level]]


def read_stamp() -> dict[str, str]:
    """Level -> the fingerprint that it was installed for."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(stamp: dict[str, str]) -> None:
    STAMP.write_text(json.dumps(stamp))


def check_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Stop with the fix where this machine cannot run the pinned lists."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        stop(
            f"the pinned lists are for Linux on x86_64, and this is {platform.system()} on "
            f"{platform.machine()}. Fix: {WITHOUT_VLLM}"
        )
    version = sys.version_info[:3]
    if version[:2] != LISTS_ARE_FOR or version < LOWEST:
        stop(
            f"this is Python {'.'.join(map(str, version))}, and the pinned lists need 3.11.5 or a "
            "later 3.11. Fix: name one, as in make demo PYTHON=/usr/bin/python3.11, or do without "
            f"the lists, with Python 3.11 to 3.13: {WITHOUT_VLLM}"
        )
    if cpuinfo.exists() and "avx2" not in cpuinfo.read_text().split():
        stop(
            "this processor has no AVX2, which vLLM's CPU build needs. "
            f"Fix: do without vLLM: {WITHOUT_VLLM}"
        )


def make_environment() -> None:
    say(f"making a new environment in {VENV.name}")
    STAMP.unlink(missing_ok=True)
    venv.create(VENV, with_pip=True, clear=True)


def install(level: str, project: bool = True) -> None:
    say(f"installing {count(level)} pinned packages ({SIZES[level]} on disk)")
    install_torch(level)
    pip(*(argument for path in lists(level) for argument in ("-r", str(path))))
    if project:
        say("installing this project")
        pip("--no-build-isolation", "-e", str(ROOT))
    if level == "all":
        say("compiling")
        # All cores, where pip has one; some packages hold files that no Python compiles.
        packages = VENV / "lib" / f"python{LISTS_ARE_FOR[0]}.{LISTS_ARE_FOR[1]}"
        command = [str(VENV / "bin" / "python"), "-m", "compileall", "-qq", "-j", "0"]
        subprocess.run([*command, str(packages)], stderr=subprocess.DEVNULL, check=False)


def count(level: str) -> int:
    return sum(len(re.findall(r"^\w", path.read_text(), re.MULTILINE)) for path in lists(level))


def install_torch(level: str) -> None:
    """torch's CPU build, from pip's own index or else from PyTorch's."""
    entries = re.split(r"^(?=\S)", lists(level)[0].read_text(), flags=re.MULTILINE)
    entry = next(entry for entry in entries if entry.startswith("torch=="))
    pin = entry.split()[0]
    # In a file, as hashes cannot be given on pip's command line.
    path = VENV / "torch.txt"
    path.write_text(entry)
    if pip("-r", str(path), check=False):
        return
    say(f"pip's index has no {pin}; trying PyTorch's CPU index, {TORCH_INDEX_URL}")
    if not pip("-r", str(path), "--index-url", TORCH_INDEX_URL, check=False):
        stop(
            f"{pin} was found neither in pip's index nor at {TORCH_INDEX_URL}. Fix: name an index "
            "that has it by TORCH_INDEX_URL=..., or let pip find the wheel by PIP_FIND_LINKS=FOLDER"
        )


def pip(*arguments: str, check: bool = True) -> bool:
    """Install; True if it succeeded.

    Nothing is compiled: most of what vLLM and torch bring is never imported by the demo, and Python
    compiles the rest when it is first imported.
    """
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--no-compile"]
    command += ["--disable-pip-version-check", *arguments]
    # pip mentions every index folder that lacks a package; only what stops it is worth reading.
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None  # noqa: S101
            show_progress(process.stdout)
        if process.returncode and check:
            errors.seek(0)
            print(errors.read(), file=sys.stderr)
            stop(f"pip could not install {' '.join(arguments)}; its own words are above")
    return process.returncode == 0


def show_progress(lines: Iterable[str]) -> None:
    """On a terminal, one line that says which package is fetched, and then that pip unpacks."""
    fetched = 0
    for line in lines:
        if not sys.stdout.isatty():
            continue
        word, _, rest = line.strip().partition(" ")
        if word == "Collecting":
            fetched += 1
            text = f"fetching package {fetched}, {rest.split()[0]}"
        elif line.startswith("Installing collected packages"):
            text = f"unpacking {fetched} packages"
        elif word == "Successfully":
            text = ""
        else:
            continue
        print(f"\r\x1b[K{text and 'setup: '}{text[:70]}", end="", flush=True)


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def stop(reason: str) -> NoReturn:
    sys.exit(f"setup: {reason}")


if __name__ == "__main__":
    if sys.argv[1:] not in ([], *([level] for level in LEVELS)):
        stop(f"the argument is one of {', '.join(LEVELS)}, or none for all")
    main(*sys.argv[1:] or ["all"])
