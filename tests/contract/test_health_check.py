"""What an image's HEALTHCHECK runs, against real processes however they were told their port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trustme

from capo_client.cli.ports import free_port
from kit_service import Background, body, eventually

SCRIPTED = Path(__file__).parents[1] / "serve_scripted.py"
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("CAPO_")}


def check(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As the engine of a container runs it: in the image's environment, beside the service."""
    command = [sys.executable, "-m", "capo_service.cli.healthcheck"]
    env = {**CLEAN, "TMPDIR": str(folder), **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


@contextmanager
def started(
    folder: Path, command: list[str], **environment: str
) -> Iterator[subprocess.Popen[str]]:
    env = {**CLEAN, "TMPDIR": str(folder), **environment}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (folder / "log").read_text()


def certificates(folder: Path) -> dict[str, str]:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = {name: folder / f"{name}.pem" for name in ("tls_cert", "tls_key", "tls_client_ca")}
    files["tls_cert"].write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    files["tls_key"].write_bytes(issued.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(files["tls_client_ca"]))
    return {name: str(path) for name, path in files.items()}


@pytest.mark.parametrize("way", ["option", "set", "toml", "variable", "tls", "mtls", "any port"])
def test_the_check_finds_the_service_however_its_port_was_set(tmp_path: Path, way: str) -> None:
    port = str(free_port())
    arguments: list[str] = []
    environment = {"CAPO_PORT": "8000"}  # as the image has it
    if way == "option":
        arguments = ["--port", port]
    elif way == "any port":
        arguments = ["--port", "0"]
    elif way == "set":
        arguments = ["--set", f"port={port}"]
    elif way == "variable":
        environment["CAPO_PORT"] = port
    else:
        values: dict[str, str | int] = {"port": int(port)}
        if "tls" in way:
            values |= certificates(tmp_path)
        if way == "tls":
            del values["tls_client_ca"]
        config = tmp_path / "capo.toml"
        config.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()))
        arguments = ["--config", str(config)]
        del environment["CAPO_PORT"]  # which would win over the file
    command = [sys.executable, "-m", "capo_client", "serve", "--engine", "symbolic", *arguments]
    assert check(tmp_path, **environment).returncode == 1
    with started(tmp_path, command, **environment) as process:
        eventually(lambda: check(tmp_path, **environment).returncode == 0, 60)
        assert process.poll() is None
    gone = check(tmp_path, **environment)
    assert gone.returncode == 1 and "refused" in gone.stderr


def test_the_check_says_why_a_service_is_not_ready(tmp_path: Path) -> None:
    port = free_port()
    values = json.dumps({"port": port, "verify_workers": 1})
    with started(tmp_path, [sys.executable, str(SCRIPTED), values, "10"]) as process:
        eventually(lambda: check(tmp_path).returncode == 0, 60)
        url = f"http://127.0.0.1:{port}"
        waiting = Background(url, body())
        eventually(lambda: "capo_accepted 1.0" in httpx.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: "The service is shutting down" in check(tmp_path).stderr)
        waiting.wait()
        process.wait(60)


def test_the_address_of_a_killed_service_is_ignored(tmp_path: Path) -> None:
    folder = tmp_path / f"capo-{os.getuid()}"
    folder.mkdir(mode=0o700)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (folder / f"{dead.pid}.json").write_text('{"url": "http://127.0.0.1:1", "certificate": false}')
    (folder / f"{os.getpid()}.json").write_text("not JSON")
    assert "127.0.0.1:8765" in check(tmp_path, CAPO_PORT="8765").stderr
