"""Build the wheel and the sdist, install them in clean environments, and run the quick start.

    python tools/check_package.py             with dependencies as pinned in requirements/
    python tools/check_package.py --latest    with the newest that pyproject.toml allows
    python tools/check_package.py --release   the same, and whether everything names one version

Needs git, and Python 3.11 to 3.13 with pip. The files stay in build/package/dist.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import tomllib
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import urljoin

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "package"
DIST = WORK / "dist"
PINS = WORK / "pins.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The files that git has, listed once.
TRACKED: list[str] = []
FOLDERS = ("client", "service", "trainer")
# The quick start's rollout: the second step is wrong.
ROLLOUT = {
    "question": "What is 12 * 8 - 75?",
    "response": "12 * 8 = 96.\n\nThen 96 - 75 = 31.\n\n#### 31",
    "reference": "#### 21",
    "token_offsets": [[0, 12], [12, 14], [14, 32], [32, 34], [34, 41]],
}
TOKEN_REWARDS = [0.0, 0.0, -1.0, -1.0, 0.0]
WAIT = 120  # seconds for a process that should take a few


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["--latest"], ["--release"]):
        stop("the argument is --latest, --release, or none")
    if arguments == ["--release"]:
        check_release()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    names = output("git", "ls-files").splitlines()
    TRACKED.extend(name for name in names if (ROOT / name).is_file())
    PINS.write_text("" if arguments else pins())
    wheel, sdist = build()
    check_contents(wheel, sdist)
    check_client(wheel)
    check_service(sdist)
    say("the wheel and the sdist are good")


def check_release() -> None:
    """What must be true on the day of a release and not before; all of it, not the first."""
    version = PROJECT["version"]
    wrong = [f"[project.urls] of pyproject.toml has no {name}" for name in missing_urls()]
    for name, pattern in VERSIONS.items():
        found = set(re.findall(pattern, (ROOT / name).read_text(), re.MULTILINE))
        if found != {version}:
            wrong.append(f"{name} says {', '.join(sorted(found)) or 'nothing'}, not {version}")
    if f"## [{version}]" not in (ROOT / "CHANGELOG.md").read_text():
        wrong.append(f"CHANGELOG.md has no section ## [{version}]")
    if output("git", "status", "--porcelain"):
        wrong.append("git status: there are changes that are not committed")
    if wrong:
        stop("not ready for a release:\n  " + "\n  ".join(wrong))


# Files that name the version, and how.
VERSIONS = {
    "CITATION.cff": r"^version: (\S+)",
    "deploy/helm/capo/Chart.yaml": r"^appVersion: (\S+)",
    "deploy/docker/Dockerfile": r"^ARG VERSION=(\S+)",
    "deploy/docker/Dockerfile.cpu": r"^ARG VERSION=(\S+)",
    "deploy/compose/compose.yaml": r"^ +image: capo-credit:([^-\s]+)",
    "deploy/compose/compose.gpu.yaml": r"^ +image: capo-credit:([^-\s]+)",
    "deploy/helm/examples/demo.yaml": r"^ +tag: ([^-\s]+)",
    "deploy/helm/examples/gpu-7b.yaml": r"^ +tag: ([^-\s]+)",
    "deploy/helm/examples/gpu-72b-tensor-parallel.yaml": r"^ +tag: ([^-\s]+)",
    "deploy/helm/examples/gpu-multi-node.yaml": r"^ +tag: ([^-\s]+)",
    "deploy/helm/examples/upstream.yaml": r"^ +tag: ([^-\s]+)",
}


def missing_urls() -> list[str]:
    """What visitors of a package index look for."""
    wanted = ("Repository", "Documentation", "Issues", "Changelog")
    return [name for name in wanted if name not in PROJECT["urls"]]


def pins() -> str:
    """Versions alone, as a constraint for pip; a local version, +cpu, is of another index."""
    found: set[str] = set()
    for path in (ROOT / "requirements").glob("*.txt"):
        found |= set(re.findall(r"^[a-z0-9-]+==[^\s+]+", path.read_text(), re.MULTILINE))
    return "\n".join(sorted(found)) + "\n"


def build() -> tuple[Path, Path]:
    """The sdist of what git has, and the wheel from that sdist."""
    say("building")
    source = WORK / "source"
    # A copy: files that git does not have, and lists of earlier builds, must not come along.
    for name in TRACKED:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    python = environment("build", "build")
    run(python, "-m", "build", "--outdir", str(DIST), str(source), cwd=WORK)
    [wheel], [sdist] = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """The wheel holds every file of the packages and no other; the sdist those and the licences."""
    wanted = {
        name.partition("/")[2]
        for name in TRACKED
        if name.startswith(tuple(f"{f}/" for f in FOLDERS))
    }
    with zipfile.ZipFile(wheel) as file:
        inside = {name for name in file.namelist() if ".dist-info/" not in name}
        licences = {Path(name).name for name in file.namelist() if "/licenses/" in name}
    if wanted != inside:
        stop(
            f"the wheel lacks {sorted(wanted - inside)} and should not have "
            f"{sorted(inside - wanted)}. Fix: [tool.setuptools.package-data] of pyproject.toml"
        )
    expected = {path.name for each in PROJECT["license-files"] for path in ROOT.glob(each)}
    if licences != expected:
        stop(f"the wheel holds the licences {sorted(licences)}, not {sorted(expected)}")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if name not in names:
            stop(f"the sdist lacks {name}")
    for path in (wheel, sdist):
        say(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB")


def check_client(wheel: Path) -> None:
    say("installing the wheel: the client alone")
    python = environment("client", str(wheel))
    shown = run(python, "-m", "capo_client", "--version")
    if PROJECT["version"] not in shown:
        stop(f"capo --version says {shown!r}")
    packages = json.loads(run(python, "-m", "pip", "list", "--format=json"))
    heavy = {"numpy", "torch", "fastapi", "transformers", "vllm"} & {
        each["name"] for each in packages
    }
    if heavy:
        stop(f"the client alone brings {', '.join(sorted(heavy))}")
    run(python, "-c", "import capo_client, capo_wire")


def check_service(sdist: Path) -> None:
    say("installing the sdist with the extra `service`")
    python = environment("service", f"{sdist}[service]")
    run(python, "-m", "pip", "check")
    with serving(python) as url:
        say("running the quick start")
        parts = re.findall(r'(?:src|href)="([^":#]+)"', ask(f"{url}/"))
        if not parts:
            stop("the inspector's page names no script")
        for path in (*parts, "docs", "metrics", "openapi.json"):
            ask(urljoin(f"{url}/", path))
        answer = json.loads(ask(f"{url}/credit", {"rollouts": [ROLLOUT]}))
        rewards = answer["results"][0]["token_rewards"]
        if rewards != TOKEN_REWARDS:
            stop(f"the quick start's token rewards are {rewards}, not {TOKEN_REWARDS}")
        run(python, "-m", "capo_client", "demo", "--url", url)


@contextmanager
def serving(python: str) -> Iterator[str]:
    """`capo serve --engine symbolic` on a free port; its URL, once it is ready."""
    command = [python, "-m", "capo_client", "serve", "--engine", "symbolic", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=WORK, env=ENVIRON)
    limit = threading.Timer(WAIT, process.kill)
    limit.start()
    lines: list[str] = []
    try:
        assert process.stderr is not None  # noqa: S101
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r" Ready: .* at (http\S+)", line):
                break
        else:
            stop("capo serve did not get ready:\n" + "".join(lines))
        yield found[1]
    finally:
        limit.cancel()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT)


def ask(url: str, body: object = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    # As a browser: `/` is the page for those who accept HTML.
    headers = {"Content-Type": "application/json", "Accept": "text/html, */*"}
    request = urllib.request.Request(url, data, headers)
    # No proxy: the service listens on this machine alone.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=WAIT) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        stop(f"{url} answers {error.code}: {error.read().decode()[:500]}")


# Nothing of this checkout, and no setting of the service, is in the environments.
ENVIRON = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("CAPO_")}


def environment(name: str, *packages: str) -> str:
    """A new environment with these; its Python."""
    folder = WORK / name
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    run(python, "-m", "pip", "install", *options, "--constraint", str(PINS), *packages)
    return python


def run(*command: str, cwd: Path = WORK) -> str:
    result = subprocess.run(
        command, cwd=cwd, env=ENVIRON, capture_output=True, text=True, check=False
    )
    if result.returncode:
        print(result.stdout + result.stderr, file=sys.stderr)
        stop(f"{' '.join(command)} failed; its own words are above")
    return result.stdout


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def say(text: str) -> None:
    print(f"package: {text}", flush=True)


def stop(reason: str) -> NoReturn:
    sys.exit(f"package: {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
