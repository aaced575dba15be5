"""Build deploy/docker/Dockerfile.cpu with podman, then run the image and the chart's Deployment.

    python tools/image.py          (as root on Debian, x86-64; ten to twenty minutes on two cores)

No registry of images is needed: the base image is a minimal Debian made by debootstrap, with
Debian's Python. The container runs as docs/docker.md runs it, and the Deployment that the chart
renders runs by `podman kube play`. Both must become healthy, credit a rollout, refuse a wrong key,
be unable to write outside of their volumes, and stop with 0.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import debian
import httpx
import podman
import yaml
from helm_python import Chart

from capo_client import CreditClient, Rollout, UnauthorizedError

ROOT = Path(__file__).resolve().parent.parent
WORK = podman.WORK
BASE = "python:3.11.7-slim-bookworm"
IMAGE = "localhost/capo-credit:0.1.0-cpu"
PORT = 18080
KEY = "a-key-for-this-run"


def say(text: str) -> None:
    print(f"image: {text}", flush=True)


def check(condition: bool, otherwise: str) -> None:
    if not condition:
        sys.exit(f"image: {otherwise}")


class Engine:
    """podman, with its environment."""

    def __init__(self) -> None:
        self._environment = podman.prepare()

    def __call__(self, *arguments: str, fails: bool = False, **given: Any) -> str:
        """Run a command of podman; its output.

        Args:
            arguments: of podman.
            fails: whether it may fail.
            given: for subprocess.run.
        """
        done = subprocess.run(
            podman.command(*arguments),
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            **given,
        )
        check(fails or done.returncode == 0, f"podman {arguments[0]}: {done.stderr[-2000:]}")
        return done.stdout.strip()


def base_image(engine: Engine) -> None:
    """A minimal Debian with Python, made once."""
    if engine("images", "--quiet", "localhost/capo-base"):
        return
    say("debootstrap")
    folder = debian.unpack(["debootstrap"])
    target = WORK / "base"
    shutil.rmtree(target, ignore_errors=True)
    scripts = {"DEBOOTSTRAP_DIR": str(folder / "usr/share/debootstrap")}
    packages = "--include=python3,python3-venv,ca-certificates"
    command = [debian.program("debootstrap"), "--variant=minbase", packages, "bookworm"]
    subprocess.run([*command, str(target)], check=True, env=debian.environment() | scripts)
    archive = WORK / "base.tar"
    subprocess.run(["tar", "-C", str(target), "-cf", str(archive), "."], check=True)
    engine("import", str(archive), "localhost/capo-base:latest")
    shutil.rmtree(target)
    archive.unlink()


def wheels() -> None:
    """All packages that the build installs, by this machine's pip, which knows its index."""
    say("fetching what is pinned")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--dest", str(WORK / "wheels")]
    # Separately: pip wants hashes of all requirements once one has them.
    for wanted in (["-r", str(ROOT / "requirements/cpu.txt")], ["setuptools>=77,<81", "wheel"]):
        subprocess.run([*command, *wanted], check=True)
    (WORK / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")


def build(engine: Engine) -> None:
    base_image(engine)
    wheels()
    say("building Dockerfile.cpu")
    engine(
        "build",
        "--format",
        "docker",
        "--network",
        "host",
        "--tag",
        IMAGE,
        "--file",
        str(ROOT / "deploy/docker/Dockerfile.cpu"),
        "--build-context",
        f"{BASE}=container-image://localhost/capo-base:latest",
        "--volume",
        f"{WORK}/wheels:/wheels:ro",
        "--volume",
        f"{WORK}/pip.conf:/etc/pip.conf:ro",
        str(ROOT),
    )
    say(f"built: {engine('images', '--format', '{{.Size}}', IMAGE)}")


@contextmanager
def container(engine: Engine) -> Iterator[str]:
    """As docs/docker.md runs it, on another port."""
    say("podman run")
    engine(
        "run",
        "--detach",
        "--replace",
        "--name",
        "capo",
        "--read-only",
        "--tmpfs=/tmp",
        "--cap-drop",
        "all",
        "--security-opt",
        "no-new-privileges",
        "--shm-size",
        "2g",
        "--volume",
        "capo-cache:/cache",
        "--publish",
        f"127.0.0.1:{PORT}:8000",
        "--env",
        f"CAPO_API_KEY={KEY}",
        IMAGE,
    )
    try:
        yield "capo"
    finally:
        engine("rm", "--force", "capo", fails=True)


def deployment() -> str:
    """The chart's objects that podman knows, as YAML."""
    repository, tag = IMAGE.split(":")
    values = {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "modelCache": {"persistent": True, "size": "1Gi"},
        "extraEnv": [{"name": "CAPO_API_KEY", "value": KEY}],
    }
    chart = Chart.load(ROOT / "deploy/helm/capo")
    chart.validate_schema(values=values)
    files = chart.render(values=values, name="capo", namespace="default").items()
    texts = [text for name, text in files if not name.endswith("NOTES.txt")]
    found = [document for text in texts for document in yaml.safe_load_all(text) if document]
    kinds = ["ConfigMap", "PersistentVolumeClaim", "Deployment"]
    known = [document for kind in kinds for document in found if document["kind"] == kind]
    [serving] = known[-1]["spec"]["template"]["spec"]["containers"]
    serving["ports"][0] |= {"hostIP": "127.0.0.1", "hostPort": PORT}
    del serving["livenessProbe"]  # podman would run curl, which the image has not
    return yaml.safe_dump_all(known)


@contextmanager
def pod(engine: Engine) -> Iterator[str]:
    say("podman kube play, of the chart's Deployment")
    path = WORK / "chart.yaml"
    path.write_text(deployment())
    engine("kube", "down", str(path), fails=True)
    engine("volume", "rm", "--force", "capo-models", fails=True)
    engine("kube", "play", str(path))
    name = "capo-pod-0-capo"
    # Kubernetes makes an emptyDir that all may write to; this podman makes it root's.
    for volume in ("tmp", "shared-memory"):
        Path(engine("volume", "inspect", "--format", "{{.Mountpoint}}", volume)).chmod(0o1777)
    engine("restart", "--time", "5", name)
    try:
        yield name
    finally:
        engine("kube", "down", str(path), fails=True)


def try_out(engine: Engine, name: str) -> None:
    """Wait until it is healthy, credit, and stop it."""
    began = time.monotonic()
    url = f"http://127.0.0.1:{PORT}"
    while not is_ready(url):
        running = engine("inspect", "--format", "{{.State.Running}}", name)
        late = time.monotonic() > began + 600
        if running != "true" or late:
            sys.exit(f"image: {name} does not become ready\n{engine('logs', name, fails=True)}")
        time.sleep(1)
    say(f"ready after {time.monotonic() - began:.0f} s")
    engine("exec", name, "python3", "-m", "capo_service.cli.healthcheck")
    rollout = Rollout(
        question="Tom has 12 apples. Tom buys 8. How many apples has Tom?",
        response="12 + 8 = 21\n\nThe answer is 21",
        reference="20",
    )
    with CreditClient(url, api_key=KEY) as client:
        [credit] = client.credit([rollout], voting={"n": 4}).raise_for_errors().credited
    check(len(credit.steps) == 2, f"it answered {credit}")
    say(f"credited: steps {[step.wrong for step in credit.steps]} are wrong")
    try:
        with CreditClient(url, api_key="another") as client:
            client.info()
        check(False, "it takes any key")
    except UnauthorizedError:
        pass
    for path in ("/opt/capo/x", "/etc/x", "/x"):
        engine("exec", name, "sh", "-c", f"! touch {path} 2> /dev/null")
    check(engine("exec", name, "id", "-u") == "10001", "it does not run as user 10001")
    engine("stop", "--time", "60", name)
    code = engine("inspect", "--format", "{{.State.ExitCode}}", name)
    check(code == "0", f"it ended with {code}")
    say("stopped with 0")


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    engine = Engine()
    build(engine)
    for place in (container, pod):
        with place(engine) as started:
            try_out(engine, started)
