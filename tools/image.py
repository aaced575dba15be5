"""Run the build steps of deploy/docker/Dockerfile.cpu without a container engine, then its command.

    python tools/image.py          (as root; some minutes)

Each stage's RUN lines run by chroot in a clean Debian root made by debootstrap, with Debian's own
Python in the place of the base image's. Then `capo serve` runs there as the image's user, with
nothing but /cache and /tmp to write to, its health check is asked, a rollout is credited, and it is
stopped. Not covered: the base image itself, layers, and registries.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import debian

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "image"
PACKAGES = "python3,python3-venv,ca-certificates"
PORT = 18080


@dataclass
class Stage:
    """What a FROM begins: its name, its root, and its state so far."""

    name: str
    root: Path
    variables: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)


def instructions(path: Path) -> list[tuple[str, str]]:
    """(keyword, rest) of every instruction; continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def say(text: str) -> None:
    print(f"image: {text}", flush=True)


def clean_root(target: Path) -> None:
    """A fresh minimal Debian, from one that is made once."""
    base = WORK / "base"
    if not (base / "done").exists():
        say("debootstrap")
        folder = debian.unpack(["debootstrap"])
        command = [debian.program("debootstrap"), "--variant=minbase", f"--include={PACKAGES}"]
        environment = {**os.environ, "DEBOOTSTRAP_DIR": str(folder / "usr/share/debootstrap")}
        subprocess.run([*command, "bookworm", str(base)], check=True, env=environment)
        (base / "done").touch()
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "--archive", str(base), str(target)], check=True)
    shutil.copy("/etc/resolv.conf", target / "etc/resolv.conf")


def fetch_wheels() -> Path:
    """Everything that the image's pip will ask for, by this machine's pip."""
    folder = WORK / "wheels"
    say("fetching what is pinned")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--dest", str(folder)]
    # Apart, as pip asks hashes of everything once one requirement has them.
    for wanted in (["-r", str(ROOT / "requirements/cpu.txt")], ["setuptools>=77,<81", "wheel"]):
        subprocess.run([*command, *wanted], check=True)
    return folder


def run(stage: Stage, line: str) -> None:
    say(f"[{stage.name}] {line[:100]}")
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    environment |= stage.variables
    command = ["chroot", str(stage.root), "sh", "-c", f"cd {stage.folder} && {line}"]
    subprocess.run(command, check=True, env=environment)


def copy(stage: Stage, stages: dict[str, Stage], line: str) -> None:
    parts = shlex.split(line)
    source = ROOT
    if parts[0].startswith("--from="):
        source = stages[parts.pop(0).removeprefix("--from=")].root
    *names, target = parts
    into = stage.root / os.path.join(stage.folder, target).lstrip("/")
    for name in names:
        found = source / name.lstrip("/")
        place = into / found.name if target.endswith("/") or len(names) > 1 else into
        if target == "./":
            place = stage.root / stage.folder.lstrip("/") / found.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(found, place)


def build(path: Path) -> Stage:
    """All stages; the last is what the image would be."""
    stages: dict[str, Stage] = {}
    wheels = fetch_wheels()
    stage = Stage("", WORK)
    for keyword, rest in instructions(path):
        match keyword:
            case "FROM":
                name = rest.split(" AS ")[1] if " AS " in rest else "image"
                stage = stages[name] = Stage(name, WORK / name)
                clean_root(stage.root)
                if name == "build":
                    shutil.copytree(wheels, stage.root / "wheels")
                    stage.variables |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
            case "ENV":
                for pair in shlex.split(rest):
                    key, _, value = pair.partition("=")
                    stage.variables[key] = value.replace("$PATH", "/usr/local/bin:/usr/bin:/bin")
            case "WORKDIR":
                stage.folder = rest
                (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "RUN":
                run(stage, rest)
            case "COPY":
                copy(stage, stages, rest)
            case "USER":
                stage.user = rest
            case "ENTRYPOINT" | "CMD":
                stage.command += json.loads(rest)
            case "HEALTHCHECK":
                stage.health = json.loads(rest[rest.index("CMD") + 3 :])
            case "ARG" | "LABEL" | "VOLUME" | "EXPOSE" | "STOPSIGNAL":
                pass
            case _:
                sys.exit(f"image: {keyword} is not known here")
    return stage


def check(condition: bool, otherwise: str) -> None:
    if not condition:
        sys.exit(f"image: {otherwise}")


@contextmanager
def machine(root: Path) -> Iterator[None]:
    """What an engine gives every container: /proc, /sys, and shared memory."""
    shared = root / "dev/shm"
    shared.mkdir(parents=True, exist_ok=True)
    shared.chmod(0o1777)
    mounted: list[str] = []
    try:
        for kind, name in (("proc", "proc"), ("sysfs", "sys")):
            place = str(root / name)
            subprocess.run(["mount", "-t", kind, "-o", "ro,nosuid", kind, place], check=True)
            mounted.append(place)
        yield
    finally:
        for place in mounted:
            subprocess.run(["umount", place], check=True)


def try_out(stage: Stage) -> None:
    """Serve, look healthy, credit, and stop, as the image's user."""
    environment = {**stage.variables, "CAPO_PORT": str(PORT), "CAPO_HOST": "127.0.0.1"}
    inside = ["chroot", f"--userspec={stage.user}", str(stage.root), "env", "-i"]
    inside += [f"{key}={value}" for key, value in environment.items()]
    written = subprocess.run(
        [*inside, "sh", "-c", "touch /opt/capo/x /etc/x /x"], capture_output=True, text=True
    )
    check(written.stderr.count("Permission denied") == 3, f"it can write: {written.stderr}")
    log = (WORK / "serve.log").open("w")
    say("serving")
    process = subprocess.Popen([*inside, *stage.command], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 300
        while subprocess.run([*inside, *stage.health], capture_output=True).returncode:
            if process.poll() is not None or time.monotonic() > until:
                sys.exit("image: it does not become healthy\n" + (WORK / "serve.log").read_text())
            time.sleep(1)
        body = {"rollouts": [{"question": "1+1?", "response": "2\n\n3", "outcome": 1}]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORT}/credit", json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        [result] = json.load(urllib.request.urlopen(request, timeout=120))["results"]
        check(result["status"] == "ok" and len(result["steps"]) == 2, f"it answered {result}")
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    check(code == 0, f"it ended with {code}")
    size = subprocess.run(["du", "-sm", str(stage.root / "opt")], capture_output=True, text=True)
    say(f"healthy, credited a rollout, stopped with 0; /opt has {size.stdout.split()[0]} MB")


if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    image = build(ROOT / "deploy/docker/Dockerfile.cpu")
    with machine(image.root):
        try_out(image)
