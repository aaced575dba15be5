"""What is packaged, and what names the version, without building anything."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("check", ROOT / "tools" / "check_package.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "check", module)
    spec.loader.exec_module(module)
    return module


def tracked(*folders: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_every_file_of_a_package_is_in_the_wheel() -> None:
    setuptools = PYPROJECT["tool"]["setuptools"]
    packed = {
        path
        for package, patterns in setuptools["package-data"].items()
        for folder in setuptools["packages"]["find"]["where"]
        for pattern in patterns
        for path in (ROOT / folder / package).glob(pattern)
    }
    files = [path for path in tracked("client", "service", "trainer") if path.suffix != ".py"]
    assert len(files) > 20
    assert not [path for path in files if path not in packed], "add it to package-data"


def test_licences_of_bundled_files_are_packaged() -> None:
    project = PYPROJECT["project"]
    named = {path for each in project["license-files"] for path in ROOT.glob(each)}
    licences = {path for path in tracked() if re.search(r"licen[cs]e", path.name, re.I)}
    assert licences and licences <= named
    assert ("MIT" in project["license"]) == any(path.parent.name == "vendor" for path in licences)


def test_all_that_names_the_version_names_one(check: types.ModuleType) -> None:
    version = PYPROJECT["project"]["version"]
    assert len(check.VERSIONS) == 11
    for name, pattern in check.VERSIONS.items():
        assert set(re.findall(pattern, (ROOT / name).read_text(), re.M)) == {version}, name


def test_a_release_is_refused_with_all_that_is_missing(
    check: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (*check.VERSIONS, "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "output", lambda *_: " M README.md\n")
    project = {"version": "7.0.1", "urls": {"Paper": "x", "Issues": "y"}}
    monkeypatch.setattr(check, "PROJECT", project)
    with pytest.raises(SystemExit) as refused:
        check.check_release()
    reasons = str(refused.value)
    for reason in (
        "no Repository",
        "no Documentation",
        "no Changelog",
        "CITATION.cff says",
        "Chart.yaml says",
        "docker/Dockerfile says",
        "Dockerfile.cpu says",
        "no section ## [7.0.1]",
        "not committed",
    ):
        assert reason in reasons
    assert "no Issues" not in reasons
    for name in check.VERSIONS:
        text = (ROOT / name).read_text()
        (tmp_path / name).write_text(text.replace(PYPROJECT["project"]["version"], "7.0.1"))
    (tmp_path / "CHANGELOG.md").write_text("## [7.0.1] - 2030-01-01\n")
    project["urls"] |= dict.fromkeys(("Repository", "Documentation", "Changelog"), "z")
    monkeypatch.setattr(check, "output", lambda *_: "")
    check.check_release()


def test_the_hosted_workflow_runs_what_ci_runs() -> None:
    wanted = set(re.findall(r"make [\w-]+", (ROOT / ".ci" / "run").read_text()))
    assert {"make demo", "make test", "make package"} <= wanted
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    found = {" ".join(command.split()[:2]) for command in commands}
    assert wanted <= found
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert all(command.split()[1] in targets for command in found)
    assert all("timeout-minutes" in job for job in jobs.values())


def test_the_citation_names_the_paper_that_the_project_names() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    [paper] = citation["references"]
    assert paper["url"] == PYPROJECT["project"]["urls"]["Paper"]
    assert len(paper["authors"]) == 5 and paper["doi"].endswith(paper["url"].rpartition("/")[2])
