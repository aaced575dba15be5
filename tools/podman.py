"""podman from Debian's packages, without installing it: images, containers, pods.

    python tools/podman.py images        (as root)

Its storage is build/image/store. Network, ports and volumes work as with Docker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import debian

WORK = Path(__file__).resolve().parent.parent / "build" / "image"
PACKAGES = ["podman", "runc", "conmon", "netavark", "aardvark-dns", "iptables", "catatonit"]


def prepare() -> dict[str, str]:
    """Unpack and configure podman; the environment in which it runs."""
    packages = debian.unpack(PACKAGES)
    home, links = WORK / "home", WORK / "links"
    for folder in (home / ".config" / "containers", links):
        folder.mkdir(parents=True, exist_ok=True)
    policy = {"default": [{"type": "insecureAcceptAnything"}]}  # images are built here, unsigned
    (home / ".config" / "containers" / "policy.json").write_text(json.dumps(policy))
    (WORK / "containers.conf").write_text(_configuration(packages))
    libraries = debian.environment()["LD_LIBRARY_PATH"]
    extensions = packages / "usr/lib/x86_64-linux-gnu/xtables"
    for name in ("iptables", "ip6tables"):  # alternatives, which only an installation links
        script = (
            f"#!/bin/sh\nexport XTABLES_LIBDIR={extensions} LD_LIBRARY_PATH={libraries}\n"
            f'exec {packages}/usr/sbin/xtables-nft-multi {name} "$@"\n'
        )
        (links / name).write_text(script)
        (links / name).chmod(0o755)
    return debian.environment() | {
        "PATH": f"{links}:{packages}/usr/bin:{packages}/usr/sbin:{os.environ['PATH']}",
        "HOME": str(home),
        "CONTAINERS_CONF": str(WORK / "containers.conf"),
    }


def _configuration(packages: Path) -> str:
    # The limits are below those of most machines: raising one needs CAP_SYS_RESOURCE.
    return f"""\
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=8000:8000"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
conmon_path = ["{packages}/usr/bin/conmon"]
helper_binaries_dir = ["{packages}/usr/lib/podman", "{packages}/usr/libexec/podman"]
[engine.runtimes]
runc = ["{packages}/usr/sbin/runc"]
[network]
network_backend = "netavark"
"""


def command(*arguments: str) -> list[str]:
    store = ["--root", str(WORK / "store"), "--runroot", str(WORK / "run")]
    return ["podman", *store, "--storage-driver", "overlay", *arguments]


if __name__ == "__main__":
    sys.exit(subprocess.run(command(*sys.argv[1:]), env=prepare(), check=False).returncode)
