"""Programs of Debian packages, unpacked under build/debian without being installed.

python tools/debian.py prometheus haproxy
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "build" / "debian"


def unpack(packages: list[str]) -> Path:
    """Fetch packages, with those they need and this machine lacks; the folder they are under."""
    wanted = ROOT / "packages"
    have = set(wanted.read_text().split()) if wanted.exists() else set()
    if set(packages) <= have:
        return ROOT
    # Lists of packages may be missing or old on a new machine.
    found = _needed(packages)
    if not found or not _fetch(found):
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        found = _needed(packages)
        if not found or not _fetch(found):
            sys.exit(f"debian: apt-get cannot fetch {', '.join(packages)}")
    wanted.write_text("\n".join(sorted(have | set(packages))) + "\n")
    return ROOT


def _needed(packages: list[str]) -> list[str]:
    command = ["apt-get", "install", "--simulate", "--no-install-recommends", *packages]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return re.findall(r"^Inst (\S+)", told.stdout, re.MULTILINE)


def _fetch(names: list[str]) -> bool:
    folder = ROOT / "archives"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *names]
    if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode:
        return False
    for archive in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(archive), str(ROOT)], check=True)
    shutil.rmtree(folder)
    return True


def program(name: str) -> str:
    """The path of an unpacked program.

    Raises:
        FileNotFoundError: no unpacked package has it.
    """
    for folder in ("usr/bin", "usr/sbin", "bin", "sbin"):
        if (path := ROOT / folder / name).exists():
            return str(path)
    raise FileNotFoundError(f"{name} is in no package under {ROOT}")


def environment() -> dict[str, str]:
    """Variables under which unpacked programs find their libraries."""
    places = [ROOT / part / "x86_64-linux-gnu" for part in ("usr/lib", "lib")]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, places))}


if __name__ == "__main__":
    print(unpack(sys.argv[1:]))
